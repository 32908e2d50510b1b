"""How good a generator is, in numbers."""
