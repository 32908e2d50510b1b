"""A run from its config to its end: every start-up check in order, then the training loop."""
