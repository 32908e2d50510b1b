"""Process groups, collectives, and the engines that reduce gradients and update weights."""
