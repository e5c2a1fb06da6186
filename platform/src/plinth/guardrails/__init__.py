"""Guardrails: what may be asked, read and answered, as policy in code."""
