"""Published checkpoints turned into ours."""
