"""A1111's own conversation with the webuiapi package: python examples/a1111_client.py [host] [port] [file]."""

import sys

import webuiapi


def main(host: str = "127.0.0.1", port: str = "7860", file: str = "dog.png") -> None:
    """Make a picture and say what the server says of it."""
    api = webuiapi.WebUIApi(host=host, port=int(port))
    made = api.txt2img(prompt="pretty dog", steps=20, seed=1)
    made.image.save(file)
    print(f"{file}: {made.info['infotexts'][0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
