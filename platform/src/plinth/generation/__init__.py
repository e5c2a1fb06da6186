"""Generation: prompts, and the models that answer with them."""
