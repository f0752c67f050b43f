# SPDX-License-Identifier: Apache-2.0
"""A step is timed, counted and looked at; bars are held at the end."""

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import openstack.exceptions
import pytest
from rich.console import Console

from demo import report
from demo.failure import DemoFailure, expect
from demo.job import STEPS
from demo.runner import hold_bars, run_step, run_steps
from demo.step import Step


class CountingHost:
    """Stands for the embedded host: answers how many requests it got."""

    def __init__(self):
        self.count = Counter({"VM.get_record": 100})

    def requests(self):
        return Counter(self.count)


@pytest.fixture
def job():
    layout = SimpleNamespace(log_of=lambda name: Path(f"/logs/{name}.log"))
    cloud = SimpleNamespace(host=CountingHost(), layout=layout)
    return SimpleNamespace(cloud=cloud, log=lambda name="nova-compute": Path(name))


def asking(times):
    def act(job):
        job.cloud.host.count["VM.start_on"] += times

    return act


def look(job):
    # What the look itself asks is not the driver's.
    job.cloud.host.count["VM.get_record"] += 50
    return "seen"


def test_only_the_requests_of_the_step_count(job):
    line = run_step(job, Step("boot", asking(7), look, 12))
    assert (line.requests, line.seen) == ({"VM.start_on": 7}, "seen")


def test_step_over_its_bar_fails():
    fine = report.Line("boot", 1.0, {"VM.create": 12}, 12, "seen")
    over = report.Line("delete", 1.0, {"VM.destroy": 4, "VDI.destroy": 3}, 6, "seen")
    hold_bars([fine], Path("log"))
    with pytest.raises(DemoFailure, match="at most 6 XenAPI requests") as caught:
        hold_bars([fine, over], Path("log"))
    assert caught.value.step == "delete"
    assert caught.value.seen == "7: 3 VDI.destroy, 4 VM.destroy"


def test_refused_request_is_a_failure_of_the_step(job):
    def act(job):
        raise openstack.exceptions.ConflictException("no")

    with pytest.raises(DemoFailure) as caught:
        run_step(job, Step("stop", act, look))
    assert caught.value.step == "stop"


def test_failed_look_stops_the_steps(job):
    def bad(job):
        expect(False, "a VM", "none")

    console = Console(file=io.StringIO())
    steps = [Step("one", asking(1), bad), Step("two", asking(1), look)]
    with pytest.raises(DemoFailure):
        run_steps(job, steps, console)
    assert job.cloud.host.count.total() == 101


def test_failure_is_told_in_full():
    text = io.StringIO()
    failure = DemoFailure("a VM", "[none]", Path("/logs/nova-compute.log"))
    failure.step = "boot demo-1"
    report.show_failure(Console(file=text, width=40), failure)
    for words in ("boot demo-1", "a VM", "[none]", "/logs/nova-compute.log"):
        assert words in text.getvalue()


def test_json_has_every_column():
    (line,) = json.loads(
        report.as_json([report.Line("boot", 1.5, {"VM.create": 1}, 12, "seen")])
    )
    assert line == {
        "step": "boot",
        "seconds": 1.5,
        "requests": {"VM.create": 1},
        "bar": 12,
        "seen": "seen",
    }


def test_bars_are_those_of_the_project():
    bars = {step.name: step.bar for step in STEPS if step.bar is not None}
    assert bars == {
        "boot demo-2 (cached)": 12,
        "delete demo-1": 6,
        "delete demo-2": 6,
    }
