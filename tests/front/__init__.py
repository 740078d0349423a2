"""The front before pods that come and go."""
