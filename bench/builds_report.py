# SPDX-License-Identifier: Apache-2.0
"""Builds at once and snapshots, as a table and as a plot."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from bench.builds import DOWNLOADS, REQUESTS, SECONDS, Found, as_rows
from bench.report import aligned, drawn


def table(found: Found) -> str:
    """Return a line for each figure, a column for each number of builds."""
    counts = sorted(found[SECONDS])
    lines = [["builds at once", *(str(count) for count in counts)]]
    for what, values in as_rows(found):
        whole = what in (REQUESTS, DOWNLOADS)
        lines.append(
            [what, *(_cell(values.get(count), whole) for count in counts)]
        )
    return aligned(lines)


def _cell(value: float | None, whole: bool) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if whole else f"{value:.2f}"


def plot(found: Found, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw time and requests of one build; no files without matplotlib."""
    return drawn("bench-builds", folder, functools.partial(_figure, found))


def _figure(found: Found, pyplot: Any) -> Any:
    figure, (seconds, requests) = pyplot.subplots(
        1, 2, figsize=(10, 4), layout="constrained"
    )
    counts = sorted(found[SECONDS])
    for axes, what in ((seconds, SECONDS), (requests, REQUESTS)):
        values = [found[what][count] / count for count in counts]
        axes.bar([str(count) for count in counts], values, width=0.5)
        axes.set(xlabel="builds of one image at once", ylabel=f"{what} of one build")
        for place, value in enumerate(values):
            axes.annotate(f"{value:.2g}" if what == SECONDS else f"{value:.1f}",
                          (place, value), ha="center", va="bottom")  # fmt: skip
    return figure
