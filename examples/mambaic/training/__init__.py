"""Training: the run, the step, its data and its log."""
