"""A documentation assistant: retrieval, prompts and guardrails under one lifecycle."""
