"""``GET /imagine``: a prompt in the address, a PNG in the answer, as the Ray Serve blueprints' clients ask for it."""
