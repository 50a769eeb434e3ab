"""A chart of the engine's ratios, each as a multiple of what is wanted, with its floor.

Run: `python benchmarks/engine.py --json engine.json; python benchmarks/chart.py engine.json docs/engine.png`.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

OURS, WANTED, FLOOR = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's, told apart by the colour-blind


def wanted(text: str) -> float | None:
    """The number in `≤ 1.17` or `≤ 1/5`."""
    found = re.search(r"≤ ([0-9.]+)(?:/([0-9.]+))?", text)
    return float(found[1]) / float(found[2] or 1) if found else None


def draw(ratios: list[dict[str, Any]], target: Path) -> None:
    """One row a ratio, as a multiple of what is wanted: our dot, the floor's cross, and the ratio itself in words."""
    from matplotlib import pyplot as plt

    rows = [(one, limit) for one in ratios if (limit := wanted(one["target"]))][::-1]
    plt.switch_backend("Agg")
    figure, axis = plt.subplots(figsize=(10, 0.32 * len(rows) + 1.2))
    places = list(range(len(rows)))
    met = [one["ratio"] / limit for one, limit in rows]
    axis.axvline(1.0, color=WANTED, lw=2, label="wanted: at most this")
    axis.scatter(met, places, color=OURS, s=46, zorder=3, label="measured")
    floors = [(one["floor"] / limit, place) for place, (one, limit) in zip(places, rows, strict=True) if one["floor"]]
    if floors:
        axis.scatter(*zip(*floors, strict=True), color=FLOOR, marker="x", s=36, zorder=4, label="floor by FLOPs")
    for place, (one, limit) in zip(places, rows, strict=True):
        axis.text(
            1.01,
            place,
            f"{one['ratio']:.3f}  (≤ {limit:.3g})",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    axis.set_yticks(places, [one["name"] for one, _ in rows], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlim(0, max(1.3, *met) + 0.1)
    axis.set_xlabel("ratio of times, ours by the other's, as a multiple of what is wanted (left is faster)", fontsize=9)
    axis.grid(axis="x", color="0.92")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=130, bbox_inches="tight")


def main() -> None:
    """Read the engine's figures and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    draw(json.loads(args.figures.read_text(encoding="utf-8"))["ratios"], args.target)


if __name__ == "__main__":
    main()
