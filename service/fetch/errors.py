"""How a fetch fails: try again (exit code 1) or change something first (exit code 2)."""


class FetchError(Exception):
    """The fetch did not succeed; the same command may succeed later, and goes on where this one stopped."""

    exit_code = 1


class FetchRefused(FetchError):
    """The fetch cannot succeed as it was asked for: another attempt would end the same way."""

    exit_code = 2
