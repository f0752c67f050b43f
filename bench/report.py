# SPDX-License-Identifier: Apache-2.0
"""Measurements as a table, as JSON, and as plots where matplotlib is installed."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bench.simulator import IDLE, Measures

BUILD = pathlib.Path(__file__).parents[1] / "build"


def duration(seconds: float) -> str:
    """Return a time for people."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} us"


def _rate(seconds: float) -> str:
    rate = 1 / seconds
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def table(found: Measures) -> str:
    """Return lines with time and calls per second against the number of VMs."""
    sizes = sorted({size for times in found.values() for size in times})
    lines = [["VMs", *(f"{size:,}" for size in sizes)]]
    for what, times in found.items():
        cells = []
        for size in sizes:
            value = times.get(size)
            if value is None:
                cells.append("")
            elif what == IDLE:
                cells.append(f"{value:.1%}")
            else:
                cells.append(f"{duration(value)} {_rate(value):>6}/s")
        lines.append([what, *cells])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return cells in columns, of which the first ``texts`` are for words."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_json(found: Measures) -> str:
    """Return the same as JSON: seconds (or shares) by name and number of VMs."""
    return json.dumps(found, indent=2)


# One for each round through matplotlib's ten colours.
_MARKERS = "osv"


def drawn(
    name: str, folder: pathlib.Path, draw: Callable[[Any], Any]
) -> list[pathlib.Path]:
    """Write a picture's files and return them; none without matplotlib.

    :param draw: takes ``matplotlib.pyplot`` and returns the figure
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return []
    matplotlib.use("svg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure = draw(pyplot)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{suffix}" for suffix in ("svg", "png")]
    for file in files:
        figure.savefig(file)
    pyplot.close(figure)
    return files


def plot(found: Measures, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw time against the number of VMs; no files without matplotlib."""
    return drawn("bench-simulator", folder, functools.partial(_figure, found))


def _figure(found: Measures, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    # The slowest first, as they stand in the picture; no two lines look alike.
    lines = [(what, times) for what, times in found.items() if what != IDLE]
    lines.sort(key=lambda line: -line[1][max(line[1])])
    for number, (what, times) in enumerate(lines):
        sizes = sorted(times)
        values = [times[size] * 1e3 for size in sizes]
        marker = _MARKERS[number // 10 % len(_MARKERS)]
        axes.plot(sizes, values, marker=marker, label=what)
    axes.set(xscale="log", yscale="log", xlabel="VMs", ylabel="ms")
    axes.grid(True, which="major", alpha=0.4)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
