"""Training: the loop, its data sets, and what of a compressed net can learn."""
