# SPDX-License-Identifier: Apache-2.0
"""Run the steps of the job one after the other, timed and counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import openstack.exceptions
from keystoneauth1.exceptions import ClientException
from rich.console import Console

from demo.failure import DemoFailure, expect
from demo.report import Line
from demo.step import Job, Step


def run_step(job: Job, step: Step) -> Line:
    """Do a step, look at it, hold it to its bar.

    :raises DemoFailure: it did not show what it must; names the step
    """
    host = job.cloud.host
    try:
        before, began = host.requests(), time.monotonic()
        step.act(job)
        seconds, requests = time.monotonic() - began, host.requests() - before
        seen = step.look(job)
        if step.bar is not None:
            wanted = f"at most {step.bar} XenAPI requests"
            expect(requests.total() <= step.bar, wanted, told(requests), job.log())
    except DemoFailure as failure:
        failure.step = step.name
        raise
    except (openstack.exceptions.SDKException, ClientException) as exc:
        refusal = DemoFailure("the API to accept the request", exc, job.log("nova-api"))
        refusal.step = step.name
        raise refusal from exc
    return Line(step.name, seconds, requests.total(), step.bar, seen)


def told(requests: Counter[str]) -> str:
    """How many requests, and which."""
    which = (f"{count} {name}" for name, count in sorted(requests.items()))
    return f"{requests.total()}: {', '.join(which)}"


def run_steps(job: Job, steps: Sequence[Step], console: Console) -> list[Line]:
    lines = []
    for step in steps:
        with console.status(step.name):
            line = run_step(job, step)
        console.print(f"[green]ok[/] {line.step}: {line.seconds:.1f} s, {line.seen}")
        lines.append(line)
    return lines
