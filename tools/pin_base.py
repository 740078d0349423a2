"""Pin the Dockerfile's base image to the digest that its registry has now: a tag says another image tomorrow.

    python tools/pin_base.py            # ARG BASE=python:3.11-slim  →  ARG BASE=python:3.11-slim@sha256:…
    python tools/pin_base.py --check    # exit 1 where it is not pinned, or its tag has moved on

The digest is that of the image's index: it holds for every processor. (OCI distribution specification, "Pulling
manifests".)
"""

import re
import sys
from pathlib import Path

import httpx

DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"
BASE = re.compile(r"^ARG BASE=(?P<tag>[^@\s]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$", re.MULTILINE)
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def where(image: str) -> tuple[str, str, str]:
    """Registry's address, repository and tag of an image's name, as Docker reads it."""
    name, _, tag = image.rpartition(":") if ":" in image.rsplit("/", 1)[-1] else (image, "", "latest")
    first, _, rest = name.partition("/")
    if not rest or not (set(first) & set(".:") or first == "localhost"):
        return "https://registry-1.docker.io", name if "/" in name else f"library/{name}", tag
    scheme = "http" if first.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    return f"{scheme}://{first}", rest, tag


def digest_of(image: str, client: httpx.Client) -> str:
    """The digest that the registry has for ``image`` now. Raises httpx.HTTPError."""
    registry, repository, tag = where(image)
    url, headers = f"{registry}/v2/{repository}/manifests/{tag}", {"Accept": ACCEPT}
    answer = client.head(url, headers=headers)
    if answer.status_code == 401:  # anybody gets a token, but must ask for one
        asked = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("WWW-Authenticate", "")))
        token = client.get(
            asked["realm"],
            params={"service": asked.get("service", ""), "scope": f"repository:{repository}:pull"},
        ).raise_for_status()
        headers["Authorization"] = f"Bearer {token.json()['token']}"
        answer = client.head(url, headers=headers)
    digest: str = answer.raise_for_status().headers["Docker-Content-Digest"]
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise httpx.HTTPError(f"{registry} has no digest for {image}: {digest!r}")
    return digest


def main(arguments: list[str], dockerfile: Path = DOCKERFILE) -> int:
    """Pin or check; returns the exit status."""
    text = dockerfile.read_text()
    found = BASE.search(text)
    if found is None:
        print(f"{dockerfile} has no line ARG BASE=….", file=sys.stderr)
        return 2
    try:
        with httpx.Client(timeout=30, follow_redirects=True) as client:
            digest = digest_of(found["tag"], client)
    except (httpx.HTTPError, KeyError) as error:
        print(f"The registry of {found['tag']} did not say its digest: {error}", file=sys.stderr)
        return 2
    if "--check" in arguments:
        print(
            f"{found['tag']} is {digest}" + ("" if digest == found["digest"] else f", not {found['digest']}")
        )
        return 0 if digest == found["digest"] else 1
    dockerfile.write_text(BASE.sub(f"ARG BASE={found['tag']}@{digest}", text, count=1))
    print(f"{found['tag']}@{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
