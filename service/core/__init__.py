"""The nouns that every layer shares: jobs, events, errors, tasks, the lifecycle and the slot. No HTTP, no torch."""
