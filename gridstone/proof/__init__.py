"""Is a kernel right, and is it well built."""
