"""One matrix and one block: method, factor, column sweep, and the invariants that are checked after them."""
