"""Collapse detection: signals of a run, their history, and the verdict."""
