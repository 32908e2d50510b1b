"""Beginning a run as what another has learned: which tensors fit, and what becomes of those that do not."""
