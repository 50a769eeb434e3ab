"""One meaning for each colour of a report: black for the run, grey for another one, others for domains and labels.

Domains and labels share no colour. Losses, and series of one model, differ by line style and marker.
"""

from collections.abc import Mapping, Sequence

from moe.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY
from moe.runs.reader import RunDomain

THIS_RUN, OTHER_RUN = BLACK, "#8C8C8C"
LEVEL = "#6B6B6B"
"""Baselines, drawn as horizontal lines."""
DOMAIN_COLOURS = (
    *(GREEN, ORANGE, PINK, SKY, "#6A3D9A", "#7F5B1E"),
    *("#8DB92E", "#00545C", "#B0124C", "#BDB100", "#F28E8E", "#8E9BF5"),
)
"""Twelve colours, none of which is a label's; more domains use them again."""
LINE_STYLES = ("-", "--", ":", "-.")
"""Line styles of the experts of one domain, and of domains with the same colour."""
NEUTRAL = "#B8B8B8"
LABEL_COLOURS = dict.fromkeys(("negative", "bearish", "dovish", "down", "fall"), RED)
LABEL_COLOURS |= dict.fromkeys(("neutral", "flat"), NEUTRAL)
LABEL_COLOURS |= dict.fromkeys(("positive", "bullish", "hawkish", "up", "rise"), BLUE)
OTHER_LABEL_COLOURS = ("#5C7080", "#C3A78B", "#8FA69B", "#DCC7D3")


class DomainColours:
    """Colours and line styles of a run's domains, tasks and experts by name: those of the domain.

    Args:
        domains: in the order of the config, which decides their colours; names that they do not contain get the
            following colours in order of appearance.
    """

    def __init__(self, domains: Sequence[RunDomain] = ()) -> None:
        self._numbers: dict[str, tuple[int, int]] = {}
        for number, domain in enumerate(domains):
            for names in ((domain.name,), tuple(domain.tasks), domain.experts):
                for i, name in enumerate(names):
                    self._numbers.setdefault(name, (number, i))

    def colour(self, name: str) -> str:
        """Return the colour of a domain, a task or an expert."""
        return DOMAIN_COLOURS[self._position(name)[0] % len(DOMAIN_COLOURS)]

    def line_style(self, name: str) -> str:
        """Return its line style: solid for the first of a domain."""
        number, i = self._position(name)
        return LINE_STYLES[(i + number // len(DOMAIN_COLOURS)) % len(LINE_STYLES)]

    def knows(self, name: str) -> bool:
        """Whether the name is that of a domain, a task or an expert."""
        return name in self._numbers

    def _position(self, name: str) -> tuple[int, int]:
        """Return the number of the domain, and the position in it."""
        following = 1 + max((number for number, _ in self._numbers.values()), default=-1)
        return self._numbers.setdefault(name, (following, 0))


def label_colours(labels: Sequence[str]) -> Mapping[str, str]:
    """Return a colour for each label: fixed ones for sentiment labels, the others in turn."""
    others = [label for label in dict.fromkeys(labels) if label not in LABEL_COLOURS]
    in_turn = {label: OTHER_LABEL_COLOURS[i % len(OTHER_LABEL_COLOURS)] for i, label in enumerate(others)}
    return {label: LABEL_COLOURS.get(label) or in_turn[label] for label in dict.fromkeys(labels)}
