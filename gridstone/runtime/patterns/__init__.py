"""Patterns: plain PyTorch functions that say what Gridstone replaces. Captured and normalised like any program."""
