"""Models that are trained alike and compared: `benchmarks.backbones` and `benchmarks.ablation` are made of it."""
