"""All that is to be known of a GPU, in one call: ``python -m benchmarks.gpu [--minutes 12] [--quick]``."""
