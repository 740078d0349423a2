"""Frames of a stream: four bytes of length (big-endian), then that many bytes."""

from collections.abc import AsyncIterator
from typing import Final

from service.core.errors import UpstreamError

LARGEST: Final = 1024**3
"""Bytes beyond which a frame is not believed, whatever the limit."""


def frame(data: bytes) -> bytes:
    """``data`` as one frame."""
    return len(data).to_bytes(4, "big") + data


async def frames(chunks: AsyncIterator[bytes], largest: int = LARGEST) -> AsyncIterator[bytes]:
    """The frames in ``chunks``, however they are cut. Raises :class:`UpstreamError` for one above ``largest`` bytes
    and for a stream that ends within one.
    """
    kept = bytearray()
    needed = 4
    in_head = True
    async for chunk in chunks:
        kept += chunk
        while len(kept) >= needed:
            part = bytes(kept[:needed])
            del kept[:needed]
            if in_head:
                needed, in_head = int.from_bytes(part, "big"), False
                if needed > largest:
                    raise UpstreamError(
                        f"The service behind this one announced {needed} bytes at once; at most {largest} are taken."
                    )
                continue
            needed, in_head = 4, True
            yield part
    if kept or not in_head:
        raise UpstreamError("The service behind this one broke off within an event.")
