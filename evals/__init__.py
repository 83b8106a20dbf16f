"""Ten incidents with planted causes, and whether the tools find them: `just evals`."""
