"""Random programs around linear layers on quantised weights: compiled, each must give what it gives in eager mode."""
