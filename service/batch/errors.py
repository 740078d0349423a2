"""What ends a batch before all of its rows were tried, and with which exit code."""

from typing import Final

ALL_MADE: Final = 0
SOME_FAILED: Final = 1
UNUSABLE: Final = 2
STOPPED: Final = 3
"""Started again, the batch goes on where it was."""


class BatchError(Exception):
    """The batch cannot begin: the input, the options or the folder are wrong. One sentence with the cure."""

    exit_code = UNUSABLE


class BatchStopped(BatchError):
    """The batch cannot go on (disk full, device lost, service gone); what was made is kept."""

    exit_code = STOPPED
