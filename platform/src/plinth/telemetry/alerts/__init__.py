"""Alerts as code: what Prometheus watches, for each product and for the platform, and what to do about each."""
