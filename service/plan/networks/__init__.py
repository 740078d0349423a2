"""The networks of a checkpoint as walks over a tape: which tensors diffusers' code makes and drops, in order."""
