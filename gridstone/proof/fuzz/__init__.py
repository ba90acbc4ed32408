"""Fuzzing: random cases of everything that can be wrong, until one of them is."""
