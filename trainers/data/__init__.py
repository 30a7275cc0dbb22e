"""From files to batches: datasets of images and label maps, their checks, loaders and augmentation."""
