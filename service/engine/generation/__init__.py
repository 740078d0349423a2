"""One request on one model: passes, steps, and what bends them."""
