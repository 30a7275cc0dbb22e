"""Training, evaluation and prediction programs around :mod:`mtaclip_plugin`."""
