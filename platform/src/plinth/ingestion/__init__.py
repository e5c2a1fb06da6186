"""Ingestion: sources, parsers, chunks, and quarantine for what cannot be read."""
