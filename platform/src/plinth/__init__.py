"""Plinth: the base that AI products stand on. Importing it imports nothing else."""

__version__ = "0.1.0"
