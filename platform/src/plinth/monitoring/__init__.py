"""Monitoring: drift, performance once labels arrive, retraining triggers, reports."""
