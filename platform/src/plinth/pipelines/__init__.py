"""Pipelines: typed steps composed into flows, run inline or through Prefect."""
