"""Recipes and templates of gemm, one pair per algorithm and language."""
