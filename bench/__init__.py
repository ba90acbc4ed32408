"""Benchmarks: side by side in one run, interleaved, medians, each figure also as a share of its floor."""
