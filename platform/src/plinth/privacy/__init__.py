"""Personal data and secrets: found and redacted without a model to download."""
