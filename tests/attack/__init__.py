"""Attacks on a running service: `python -m tests.attack URL`. Bounded, and of local addresses unless told otherwise."""
