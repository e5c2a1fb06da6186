"""Rollouts: moving a product from one release to the next, and back."""
