"""The colours of all plots and charts."""

COLOURS = ("#2f6f9f", "#d1662f", "#3d8b5a", "#8a5fb0", "#b8434e", "#8c7a2b", "#2b8c8c", "#c0569a")
INK, GRID, DENSE = "#26323d", "#e6ebef", "#7b8794"
