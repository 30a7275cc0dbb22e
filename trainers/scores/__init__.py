"""Counts that add up over images and processes, and the scores that are read off them."""
