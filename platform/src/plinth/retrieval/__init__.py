"""Retrieval: embeddings, the vector store, hybrid search, and how well it finds."""
