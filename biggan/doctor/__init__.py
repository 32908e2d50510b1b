"""`biggan doctor`: finds what would kill a run, before the run does."""
