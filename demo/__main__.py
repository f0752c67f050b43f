# SPDX-License-Identifier: Apache-2.0
"""The demo's command: ``python -m demo run | down | status | openrc``."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from rich.console import Console
from rich.markup import escape

from demo import report, seeding
from demo.cloud import Cloud
from demo.failure import DemoFailure
from demo.job import STEPS
from demo.layout import Layout
from demo.runner import hold_bars, run_steps
from demo.step import Job


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="the main job, from nothing")
    run.add_argument("--keep", action="store_true", help="leave it running at the end")
    run.add_argument(
        "--backend",
        choices=("auto", "threading", "eventlet"),
        default="auto",
        help="nova-compute's concurrency_backend",
    )
    run.add_argument("-f", "--format", choices=("table", "json"), default="table")
    verbs.add_parser("down", help="stop what an earlier run started")
    verbs.add_parser("status", help="what runs; status 0 when all of it does")
    verbs.add_parser("openrc", help="shell exports for the openstack client")
    return parser.parse_args(argv)


def run(cloud: Cloud, options: argparse.Namespace, console: Console) -> int:
    """The whole demo; whatever happens, it stops what it started (or keeps it)."""
    began = time.monotonic()
    keep = False
    try:
        with console.status("starting") as status:

            def say(what: str) -> None:
                seconds = time.monotonic() - began
                console.print(f"[dim]{seconds:5.1f} s[/] starting: {escape(what)}")
                status.update(what)

            cloud.up(say)
        with seeding.connect(cloud.layout) as api:
            lines = run_steps(Job(cloud, api), STEPS, console)
        if options.format == "json":
            print(report.as_json(lines))
        else:
            Console().print(report.table(lines))
        hold_bars(lines, cloud.layout.log_of("nova-compute"))
        keep = options.keep
    except DemoFailure as failure:
        report.show_failure(console, failure)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    finally:
        if not keep:
            with console.status("stopping"):
                cloud.down()
        console.print(f"[dim]{time.monotonic() - began:5.1f} s in all[/]")
    if keep:
        explain(cloud.layout, console)
    return 0


def explain(layout: Layout, console: Console) -> None:
    """What to type now that everything runs."""
    words = (
        "It runs. In a shell:",
        f"  source {layout.state / 'openrc'}",
        "  openstack image list",
        "  openstack server create --image demo-ext4 --flavor demo.small "
        "--network demo --wait first",
        "  openstack server list",
        f"Logs: {layout.log}",
        "To stop it: make demo-down",
    )
    for line in words:
        console.print(escape(line), soft_wrap=True, highlight=False)


def status(cloud: Cloud) -> int:
    names = cloud.processes.names()
    dead = 0
    for name in names:
        pid = cloud.processes.pid(name)
        dead += pid is None
        print(f"{name:20} {'pid ' + str(pid) if pid else 'ended'}")
    if not names:
        print("nothing runs")
    return 1 if dead or not names else 0


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    # A job that is told to end cleans up as one that is interrupted.
    signal.signal(signal.SIGTERM, interrupted)
    # Progress beside the result: standard output is the table or the JSON.
    console = Console(stderr=True)
    try:
        layout = Layout.from_environment()
    except ValueError as exc:
        console.print(escape(str(exc)))
        return 2
    cloud = Cloud(layout, getattr(options, "backend", "auto"))
    if options.verb == "run":
        return run(cloud, options, console)
    if options.verb == "down":
        cloud.down()
        return 0
    if options.verb == "status":
        return status(cloud)
    print(seeding.openrc(layout), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
