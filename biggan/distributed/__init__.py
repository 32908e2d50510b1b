"""Processes, collectives and the engines that reduce gradients."""
