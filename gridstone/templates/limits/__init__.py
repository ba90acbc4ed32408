"""The kernels that measure what the machine can do at most."""
