"""Serving: requests in, predictions out, by release digest."""
