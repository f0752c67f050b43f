# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: what the driver costs a host, and how fast the embedded one is.

And how fast servers are built, and the dom0 plugins move images. Prints tables; writes
``bench-builds.json``, ``bench-driver.json`` and so on, and plots beside them, to
``build``, and ``build/bench.json`` with the ratios that ``make figures`` takes over.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from bench import (
    builds,
    builds_report,
    driver,
    driver_report,
    images,
    images_report,
    report,
    simulator,
)
from bench.report import BUILD

_PARTS: dict[str, tuple[Any, Any]] = {
    "builds": (builds, builds_report),
    "driver": (driver, driver_report),
    "images": (images, images_report),
    "simulator": (simulator, report),
}


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def _ratios(measured: dict[str, float]) -> None:
    """Put the ratios of this run in the place of those of earlier ones."""
    file = BUILD / "bench.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | measured, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=_PARTS, help="all when left out")
    parser.add_argument(
        "--vms",
        type=_sizes,
        metavar="N,N",
        help="numbers of VMs; 10,100,1000,5000 for the driver and ...,10000 for the "
        "embedded host when left out",
    )
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    printed: dict[str, Any] = {}
    for name in [arguments.part] if arguments.part else _PARTS:
        part, shown = _PARTS[name]
        vms = arguments.vms if part in (driver, simulator) else None
        found = part.measure(vms or part.SIZES)
        printed[name] = found
        (BUILD / f"bench-{name}.json").write_text(report.as_json(found) + "\n")
        ratios = part.ratios(found)
        _ratios(ratios)
        files = shown.plot(found, BUILD)
        if arguments.format == "table":
            print(shown.table(found))
            for ratio, value in ratios.items():
                print(f"{ratio} = {value}")
            for file in files or ["no plots: matplotlib is not installed"]:
                print(file)
    if arguments.format == "json":
        print(json.dumps(printed, indent=2))


if __name__ == "__main__":
    main()
