"""Images from a trained generator, and its export to files that other programs read."""
