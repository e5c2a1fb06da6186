"""Governance: model cards and lineage, made without anyone asking."""
