"""Images to shards, and shards to batches."""
