"""A causal language model as modules in memory: its blocks, experts, widths, and the groups that hang together."""
