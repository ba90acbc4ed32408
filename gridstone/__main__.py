"""`python -m gridstone`, which works in a checkout that is not installed."""

from gridstone.cli import main

main()
