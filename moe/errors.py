"""The exceptions with which a command may end.

A `Fault` is printed in one line with exit code 2; `Interrupted` means that a checkpoint was written before the stop.
"""

import signal

from experts.errors import Fault, check_choice
from experts.reading import access_fault

__all__ = ["Fault", "Interrupted", "access_fault", "check_choice"]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, raised after the current step is finished and a checkpoint is written.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number
