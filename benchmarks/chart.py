"""Plot the ratios that `benchmarks/engine.py` measured, relative to their targets.

Run: `python benchmarks/engine.py --json engine.json; python benchmarks/chart.py engine.json docs/engine.png`.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

OURS, TARGET, FLOOR = "#0072B2", "#D55E00", "#009E73"  # from Okabe and Ito's palette for colour-blind readers


def parse_target(text: str) -> float | None:
    """Return the number in `≤ 1.17` or `≤ 1/5`, or None if there is none."""
    match = re.search(r"≤ ([0-9.]+)(?:/([0-9.]+))?", text)
    return float(match[1]) / float(match[2] or 1) if match else None


def draw(ratios: list[dict[str, Any]], path: Path) -> None:
    """Draw one row per ratio: the measured value and the FLOPs floor relative to the target, and the ratio as text."""
    from matplotlib import pyplot as plt

    rows = [(ratio, limit) for ratio in ratios if (limit := parse_target(ratio["target"]))][::-1]
    plt.switch_backend("Agg")
    figure, axis = plt.subplots(figsize=(10, 0.32 * len(rows) + 1.2))
    heights = list(range(len(rows)))
    measured = [ratio["ratio"] / limit for ratio, limit in rows]
    axis.axvline(1.0, color=TARGET, lw=2, label="target (upper limit)")
    axis.scatter(measured, heights, color=OURS, s=46, zorder=3, label="measured")
    floors = [
        (ratio["floor"] / limit, height) for height, (ratio, limit) in zip(heights, rows, strict=True) if ratio["floor"]
    ]
    if floors:
        x, y = [floor for floor, _ in floors], [height for _, height in floors]
        axis.scatter(x, y, color=FLOOR, marker="x", s=36, zorder=4, label="floor by FLOPs")
    for height, (ratio, limit) in zip(heights, rows, strict=True):
        axis.text(
            1.01,
            height,
            f"{ratio['ratio']:.3f}  (≤ {limit:.3g})",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    axis.set_yticks(heights, [ratio["name"] for ratio, _ in rows], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlim(0, max(1.3, *measured) + 0.1)
    axis.set_xlabel("ratio of our time to the other's, divided by its target (left is faster)", fontsize=9)
    axis.grid(axis="x", color="0.92")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    """Read the measured ratios and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="output of engine.py --json")
    parser.add_argument("target", type=Path, help="image to write")
    args = parser.parse_args()
    draw(json.loads(args.figures.read_text(encoding="utf-8"))["ratios"], args.target)


if __name__ == "__main__":
    main()
