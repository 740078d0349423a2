"""What outlives a request: sessions and what they set."""
