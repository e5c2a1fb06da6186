"""Dashboards as code: one module a dashboard, written with Grafana's own SDK (`grafana.py`), rendered to JSON."""
