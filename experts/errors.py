"""The one exception family: a fault in what a user gave, told as expected, found and what to do.

Everything below raises it, only `cli.py` catches it (one line, exit code 2); what a programmer broke stays an `assert`.
"""


class Fault(ValueError):
    """Something a user gave cannot be used.

    Args:
        expected: what would have been right, as a noun phrase.
        found: what was there instead.
        remedy: what to do now, as an imperative.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        super().__init__(f"Expected {expected}; found {found}. {remedy[:1].upper()}{remedy[1:].rstrip('.')}.")
