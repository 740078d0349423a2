"""A size as people write it: ``512x768``."""


def sides(text: str) -> tuple[int, int]:
    """ "512x768" as (512, 768). Raises ValueError."""
    width, cross, height = text.lower().replace("×", "x").partition("x")
    if (
        not cross
        or not (width.isdigit() and height.isdigit())
        or not (0 < int(width) <= 8192 and 0 < int(height) <= 8192)
    ):
        raise ValueError(f"the size is {text!r}: write width x height in pixels, such as 512x768")
    return int(width), int(height)
