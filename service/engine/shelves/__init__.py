"""The models folder and what of it is in memory."""
