"""A1111's selectable scripts: one request that becomes several generations and, at the end, a grid or one picture."""
