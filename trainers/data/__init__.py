"""Datasets of images and label maps, and the loaders that batch them."""
