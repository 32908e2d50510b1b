"""Metrics of generated images against real ones, and the features that they are computed in."""
