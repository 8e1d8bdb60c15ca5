"""Load generation, comparisons, measurements and plots."""
