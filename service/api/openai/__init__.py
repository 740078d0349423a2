"""OpenAI's images API: generations, edits and models, for clients that speak nothing else."""
