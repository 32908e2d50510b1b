"""Import checkpoints published by other projects."""
