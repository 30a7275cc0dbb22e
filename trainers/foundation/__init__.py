"""What every other wing stands on: errors for users, whole files, signals, memory and derived randomness."""
