"""Images that clients name by address. Off unless the operator allows it (SD_ALLOW_URL_IMAGES).

An address that a client chose must not become a way into the operator's network. The name is resolved once, every
address it has must be a public one, and the connection goes to exactly that address, so that a second answer of the
name server changes nothing. No redirects, no proxies, bounded in time and size; pixels are bounded by the decoder.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

import httpx

from service.core.errors import BadImage
from service.imaging.decode import is_url
from service.imaging.formats import encode_base64
from service.settings import Settings

TIMEOUT: Final = 20.0
"""Seconds for one image, all in all."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("168.63.129.16", "192.0.0.192", "100.100.100.200")))
"""Where clouds answer their own machines (Azure, Oracle, Alibaba): addresses that count as public and are not."""
_PORTS: Final = {"http": 80, "https": 443}


async def without_urls(texts: Sequence[str], settings: Settings, name: str = "image") -> list[str]:
    """``texts`` with every address replaced by the base64 of what is there. Raises :class:`BadImage`.

    Whether that is an image at all is for the decoder to say. All of them together are bounded as one body is.
    """
    if not any(is_url(text) for text in texts):
        return list(texts)
    if len(texts) > settings.max_images:
        raise BadImage(
            f"{name} has {len(texts)} images, but at most {settings.max_images} are taken (SD_MAX_IMAGES)."
        )
    fetched: list[str] = []
    for number, text in enumerate(texts):
        fetched.append(await inline(text, settings, f"{name}[{number}]"))
        if sum(map(len, fetched)) * 3 / 4 > settings.max_body_mb * 1e6:
            raise BadImage(
                f"{name} has more than {settings.max_body_mb:g} MB in all (SD_MAX_BODY_MB): send fewer images."
            )
    return fetched


async def inline(text: str, settings: Settings, name: str = "image") -> str:
    """``text``, or if it is an address, the base64 of what is there. Raises :class:`BadImage`."""
    if not is_url(text):
        return text
    if not settings.allow_url_images:
        raise BadImage(
            f"Requests not allowed: {name} is an address. Send the image's bytes as base64, "
            "or let the operator set SD_ALLOW_URL_IMAGES."
        )
    try:
        async with asyncio.timeout(TIMEOUT):
            return encode_base64(await _fetch(text.strip(), settings, name))
    except TimeoutError:
        raise BadImage(f"{name}: the address did not send an image within {TIMEOUT:g} s.") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise BadImage(f"Invalid image url: {name} could not be fetched ({type(error).__name__}).") from None


async def _fetch(address: str, settings: Settings, name: str) -> bytes:
    url = httpx.URL(address)
    if url.scheme not in _PORTS or not url.host:
        raise BadImage(f"{name} must be an http:// or https:// address, or base64.")
    if url.userinfo:
        raise BadImage(f"{name}: addresses with credentials are not fetched.")
    port = url.port or _PORTS[url.scheme]
    public = await resolve(url.host, port, name)
    limit = int(settings.max_body_mb * 1e6)
    host = f"[{public}]" if ":" in public else public
    headers = {"Host": url.netloc.decode("ascii"), "Accept": "image/*", "User-Agent": "knative-diffusion"}
    async with (
        httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT) as client,
        client.stream(
            "GET",
            url.copy_with(host=host),
            headers=headers,
            extensions={"sni_hostname": url.host},
        ) as answer,
    ):
        if answer.status_code != 200:
            raise BadImage(
                f"Invalid image url: {name} answered {answer.status_code}; redirects are not followed."
            )
        data = bytearray()
        # Raw: what a server compressed could grow without bound.
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(data) > limit:
                raise BadImage(
                    f"{name}: what is at the address is larger than {settings.max_body_mb:g} MB (SD_MAX_BODY_MB)."
                )
        return bytes(data)


async def resolve(host: str, port: int, name: str) -> str:
    """The address to connect to. Raises :class:`BadImage` if ``host`` has none, or any that is not public."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise BadImage(f"Invalid image url: {name} names a host that does not exist.") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise BadImage(
            f"Request to local resource not allowed: {name} does not lead to a public address on the internet."
        )
    return addresses[0]


def is_public(text: str) -> bool:
    """True for an address that anybody on the internet could reach; False for all that embed another address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64:
            return False
        if address.is_site_local:
            return False
    if address in _METADATA:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
