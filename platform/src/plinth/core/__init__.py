"""Products, releases, gates, error budgets, digests: data and pure functions, no tool."""
