"""A1111's HTTP API: its routes, its fields, its options, and how its answers are shaped."""
