"""Fine-tuning: initializing a run from trained networks, and deciding which of their tensors fit."""
