"""From float weights to codes, scales and zero points."""
