"""The options of a run: their tree, how they are read, and how their help reads."""
