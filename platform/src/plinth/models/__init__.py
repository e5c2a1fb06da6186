"""Models: training records, registry, safe formats, evaluation."""
