"""The kinds of tasks by their names."""

from experts.domain import CLASSES, Kind
from moe.kinds.base import TaskKind
from moe.kinds.classes import Classes
from moe.kinds.multi_label import MultiLabel
from moe.kinds.ordinal import Ordinal
from moe.kinds.score import Score

_KINDS: dict[Kind, TaskKind] = {kind.name: kind for kind in (Classes(), MultiLabel(), Ordinal(), Score())}


def task_kind(name: Kind = CLASSES) -> TaskKind:
    """Return the kind of that name."""
    return _KINDS[name]
