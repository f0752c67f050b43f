# SPDX-License-Identifier: Apache-2.0
"""What the driver's work costs, as a table and as a plot."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from bench.driver import (
    CONNECT,
    INIT_HOST,
    LIST,
    POWER_SYNC,
    READ_ALL,
    RESOURCES,
    Cost,
    Costs,
)
from bench.report import aligned, drawn, duration

_WORK = (CONNECT, READ_ALL, INIT_HOST, POWER_SYNC, RESOURCES, LIST)

# The retired driver's requests for one resource report and one power sync, on hosts
# with 10 and with 1,000 servers.
RETIRED = {10: 120, 1000: 8040}


def table(found: Costs) -> str:
    """Return lines with requests, bytes and times against the number of servers."""
    sizes = sorted(found[POWER_SYNC])
    lines = [["servers", "", *(f"{size:,}" for size in sizes)]]
    for what in (*_WORK, *(name for name in found if name.startswith(f"{READ_ALL},"))):
        costs = found[what]
        lines.append([what, "requests", *(_requests(costs[size]) for size in sizes)])
        lines.append(["", "KiB received", *(_received(costs[size]) for size in sizes)])
        for latency in sorted(costs[sizes[0]]["seconds"]):
            times = (duration(costs[size]["seconds"][latency]) for size in sizes)
            lines.append(["", f"at {latency} ms", *times])
    bytes_ = (f"{found['memory'][size]['bytes'] / 2**20:.1f} MiB" for size in sizes)
    lines.append(["records in memory", "", *bytes_])
    return aligned(lines, texts=2)


def _requests(cost: Cost) -> str:
    polls = f" + {cost['polls']} polls" if cost["polls"] else ""
    return f"{cost['requests']}{polls}"


def _received(cost: Cost) -> str:
    return f"{(cost['received'] + cost['polls_received']) / 1024:,.1f}"


def plot(found: Costs, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw requests and times against servers; no files without matplotlib."""
    return drawn("bench-driver", folder, functools.partial(_figure, found))


def _figure(found: Costs, pyplot: Any) -> Any:
    figure, (requests, times) = pyplot.subplots(
        1, 2, figsize=(11, 4.5), layout="constrained"
    )
    for what, marker in zip(
        (INIT_HOST, CONNECT, RESOURCES, POWER_SYNC), "sov^", strict=True
    ):
        sizes = sorted(found[what])
        counts = [found[what][size]["requests"] for size in sizes]
        requests.plot(sizes, counts, marker=marker, label=what)
    requests.plot(
        list(RETIRED), list(RETIRED.values()), "k--", marker="x",
        label="the retired driver, a minute",
    )  # fmt: skip
    requests.set(xscale="log", xlabel="servers", ylabel="requests", ylim=(-0.3, 3e4))
    requests.set_yscale("symlog", linthresh=10)
    for what, marker in ((READ_ALL, "o"), (INIT_HOST, "s"), (POWER_SYNC, "^")):
        for latency, style in ((0, "-"), (20, ":")):
            sizes = sorted(found[what])
            if latency not in found[what][sizes[0]]["seconds"]:
                continue
            values = [found[what][size]["seconds"][latency] * 1e3 for size in sizes]
            label = f"{what}, {latency} ms"
            times.plot(sizes, values, style, marker=marker, label=label)
    times.set(xscale="log", yscale="log", xlabel="servers", ylabel="ms")
    for axes in (requests, times):
        axes.grid(True, which="major", alpha=0.4)
        axes.legend(fontsize="small")
    return figure
