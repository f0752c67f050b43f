# SPDX-License-Identifier: Apache-2.0
"""Run the steps of the job one after the other, timed and counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import openstack.exceptions
from keystoneauth1.exceptions import ClientException
from rich.console import Console

from demo.failure import DemoFailure
from demo.report import Line
from demo.step import Job, Step


def run_step(job: Job, step: Step) -> Line:
    """Do a step, timed and counted, and look at it.

    :raises DemoFailure: it did not show what it must; names the step
    """
    host = job.cloud.host
    try:
        before, began = host.requests(), time.monotonic()
        step.act(job)
        seconds, requests = time.monotonic() - began, host.requests() - before
        seen = step.look(job)
    except DemoFailure as failure:
        failure.step = step.name
        raise
    except (openstack.exceptions.SDKException, ClientException) as exc:
        refusal = DemoFailure("the API to accept the request", exc, job.log("nova-api"))
        refusal.step = step.name
        raise refusal from exc
    return Line(step.name, seconds, dict(requests), step.bar, seen)


def hold_bars(lines: Sequence[Line], log: Path) -> None:
    """Hold every step to its bar; after the job, as all else is worth seeing.

    :raises DemoFailure: a step took more requests; names them
    """
    for line in lines:
        if line.bar is not None and line.total > line.bar:
            which = ", ".join(
                f"{n} {name}" for name, n in sorted(line.requests.items())
            )
            failure = DemoFailure(
                f"at most {line.bar} XenAPI requests", f"{line.total}: {which}", log
            )
            failure.step = line.step
            raise failure


def run_steps(job: Job, steps: Sequence[Step], console: Console) -> list[Line]:
    lines = []
    for step in steps:
        with console.status(step.name):
            line = run_step(job, step)
        console.print(f"[green]ok[/] {line.step}: {line.seconds:.1f} s, {line.seen}")
        lines.append(line)
    return lines
