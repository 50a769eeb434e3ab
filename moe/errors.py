"""The exceptions that a command may end with, in one place for `cli.py`.

`Fault` is told in one line with exit code 2; `Interrupted` means that a checkpoint was written before the stop.
"""

import signal

from experts.errors import Fault

__all__ = ["Fault", "Interrupted"]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the step was finished and a checkpoint written before this was raised.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number
