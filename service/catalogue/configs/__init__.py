"""The architectures of single-file checkpoints, as diffusers and transformers describe them: one JSON file a family."""
