"""Telemetry: metric names, structured logs, traces."""
