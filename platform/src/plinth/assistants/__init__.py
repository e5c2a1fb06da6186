"""Assistants: retrieval, generation and guardrails combined to answers, releases, evaluations and freshness."""
