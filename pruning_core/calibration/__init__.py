"""From token windows to the statistics of every linear layer, block by block."""
