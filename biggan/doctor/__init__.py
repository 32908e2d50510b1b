"""`biggan doctor`: find problems that would stop a run, before the run starts."""
