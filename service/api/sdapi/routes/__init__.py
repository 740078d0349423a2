"""A1111's routes, one module a group."""
