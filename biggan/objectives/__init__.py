"""Losses and regularizers: pure functions on tensors."""
