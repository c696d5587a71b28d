"""One matrix and one block: method, factor, sweep, and the invariants that are checked after them."""
