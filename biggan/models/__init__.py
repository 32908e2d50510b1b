"""The networks and their layers; nothing here knows of optimizers, devices or logging."""
