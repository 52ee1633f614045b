"""How `train` works: the grid of cells, one cell's fits, the files that are also the cache."""
