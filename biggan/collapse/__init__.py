"""Watching a run for collapse: what is seen, what is made of it, and what is done against it."""
