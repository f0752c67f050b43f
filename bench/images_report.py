# SPDX-License-Identifier: Apache-2.0
"""Transfers of images by the dom0 plugin, as a table and as a plot."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from bench.images import DOWNLOAD, OURS, PEAK, THEIRS, UPLOAD, Found
from bench.report import aligned, drawn

# What the retired driver's plugin did on such a machine, and what we allow ourselves.
RETIRED = {DOWNLOAD: 110, UPLOAD: 38}
MOST_MEMORY = 64


def table(found: Found) -> str:
    """Return lines with speed and memory against the disk's data."""
    sizes = sorted(found[DOWNLOAD][OURS])
    lines = [["MiB of data", "", *(f"{size:,}" for size in sizes)]]
    for fn, columns in found.items():
        name = fn
        for column, values in columns.items():
            lines.append([name, column, *(f"{values[size]:.1f}" for size in sizes)])
            name = ""
    return aligned(lines, texts=2)


def plot(found: Found, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw speed and memory against the disk's data; no files without matplotlib."""
    return drawn("bench-images", folder, functools.partial(_figure, found))


def _figure(found: Found, pyplot: Any) -> Any:
    figure, (speed, memory) = pyplot.subplots(
        1, 2, figsize=(11, 4.5), layout="constrained"
    )
    for fn, colour in ((DOWNLOAD, "C0"), (UPLOAD, "C1")):
        columns = found[fn]
        sizes = sorted(columns[OURS])
        for column, style in ((OURS, "-o"), (THEIRS, ":s")):
            values = [columns[column][size] for size in sizes]
            who = column.partition(",")[0]
            speed.plot(sizes, values, style, color=colour, label=f"{fn}, {who}")
        label = f"{fn}, the retired one"
        speed.axhline(RETIRED[fn], color=colour, linestyle="--", label=label)
        peaks = [columns[PEAK][size] for size in sizes]
        memory.plot(sizes, peaks, "-o", color=colour, label=fn)
    memory.axhline(MOST_MEMORY, color="k", linestyle="--", label="the most allowed")
    speed.set(xscale="log", xlabel="MiB of data", ylabel="MiB/s", ylim=(0, None))
    memory.set(xscale="log", xlabel="MiB of data", ylabel="MiB", ylim=(0, None))
    for axes in (speed, memory):
        axes.set_xticks(sizes, labels=map(str, sizes))
        axes.minorticks_off()
        axes.grid(True, which="major", alpha=0.4)
        axes.legend(
            fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2
        )
    return figure
