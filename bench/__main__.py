# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: how fast the embedded host answers, against its size.

Prints a table; writes ``build/bench-simulator.json``, plots beside it, and
``build/bench.json`` with the ratios that ``make figures`` takes over.
"""

from __future__ import annotations

import argparse
import json

from bench import report, simulator
from bench.report import BUILD


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--vms",
        type=_sizes,
        default=simulator.SIZES,
        metavar="N,N",
        help="numbers of VMs, 10,100,1000,10000 when left out",
    )
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    found = simulator.measure(arguments.vms)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "bench-simulator.json").write_text(report.as_json(found) + "\n")
    ratios = simulator.ratios(found)
    text = json.dumps(ratios, indent=2, sort_keys=True)
    (BUILD / "bench.json").write_text(text + "\n")
    files = report.plot(found, BUILD)
    if arguments.format == "json":
        print(report.as_json(found))
        return
    print(report.table(found))
    for name, value in ratios.items():
        print(f"{name} = {value}")
    for file in files or ["no plots: matplotlib is not installed"]:
        print(file)


if __name__ == "__main__":
    main()
