"""Packing of images into shards, and reading of shards as batches."""
