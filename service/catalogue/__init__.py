"""What can be asked for: samplers, schedulers, upscalers, checkpoints and other files, by their names. No torch."""
