"""OpenAI's client with this server behind it: python examples/openai_client.py [http://127.0.0.1:7860] [file]."""

import base64
import sys
from pathlib import Path

import openai


def main(server: str = "http://127.0.0.1:7860", file: str = "dog.png") -> None:
    """Make a picture, and watch it in the making."""
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    for event in client.images.generate(prompt="pretty dog", size="512x512", stream=True, partial_images=2):
        print(event.type)
        if event.type == "image_generation.completed":
            Path(file).write_bytes(base64.b64decode(event.b64_json))
    print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
