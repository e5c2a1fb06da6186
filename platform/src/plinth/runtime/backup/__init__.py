"""Backups of a profile whose state is in servers: what each holds, written beside a manifest of digests, and back."""
