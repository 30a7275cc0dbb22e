"""A run from its start to its end: what it works with, checkpoints, validations and interruptions."""
