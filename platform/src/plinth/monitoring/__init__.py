"""Monitoring: drift, performance once labels arrive, retraining triggers, reports."""

DEFAULT_DAYS = 30
"""Days that a report looks back over, unless told otherwise."""
