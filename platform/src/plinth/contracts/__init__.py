"""Data contracts: read (ODCS), checked (DuckDB), enforced at the pipeline's boundary, compared across versions."""
