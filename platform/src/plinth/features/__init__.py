"""Features: the offline join, the online store and the compiled read plan."""
