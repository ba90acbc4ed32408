"""Search: which candidate is fastest, and is it right. Import its modules; this one stays light."""
