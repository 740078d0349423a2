"""From files to networks: readers of checkpoints, adapters and their layouts."""
