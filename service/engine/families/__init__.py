"""Kinds of checkpoint: what differs between SD 1/2, SDXL and others, behind one protocol."""
