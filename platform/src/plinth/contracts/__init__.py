"""Data contracts: the standard's documents, their checks, reports and comparisons."""
