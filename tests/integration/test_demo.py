# SPDX-License-Identifier: Apache-2.0
"""The whole demo under real services, in both concurrency modes."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from demo.layout import CHECKOUT
from demo.processes import Processes, answers


def demo(layout, *words):
    """Start ``python -m demo`` beside whatever else runs."""
    environ = {
        **os.environ,
        "DEMO_STATE": str(layout.state),
        "DEMO_PORT_OFFSET": str(layout.offset),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *words],
        cwd=CHECKOUT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run that was started in the background ignores it, and so would this.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def assert_nothing_runs(layout):
    assert Processes(layout).names() == []
    for name in ("keystone", "mariadb", "rabbitmq", "epmd", "memcached", "xapi"):
        assert not answers(layout.port(name)), name


@pytest.mark.parametrize("backend", ["threading", "eventlet"])
def test_main_job(layout, backend):
    run = demo(layout, "run", "--backend", backend, "-f", "json")
    out, progress = run.communicate(timeout=420)
    assert run.returncode == 0, progress
    lines = {line["step"]: line for line in json.loads(out)}
    assert sum(lines["boot demo-2 (cached)"]["requests"].values()) <= 12
    for name in ("delete demo-1", "delete demo-2"):
        assert sum(lines[name]["requests"].values()) <= 6
    # Nova's own comparison of all states would come after an hour.
    assert lines["demo-1 shuts itself down"]["seconds"] < 60
    log = layout.log_of("nova-compute").read_text()
    assert ("EventletDeprecationWarning" in log) == (backend == "eventlet")
    assert_nothing_runs(layout)


def test_interrupt_stops_everything(layout):
    run = demo(layout, "run")
    deadline = time.monotonic() + 120
    while not answers(layout.port("keystone")) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, progress = run.communicate(timeout=120)
    assert run.returncode == 130, progress
    assert_nothing_runs(layout)


def test_down_stops_what_was_kept(layout):
    run = demo(layout, "run", "--keep")
    _, progress = run.communicate(timeout=420)
    assert run.returncode == 0, progress
    assert "openrc" in progress
    status = demo(layout, "status")
    assert "nova-compute" in status.communicate(timeout=30)[0]
    assert status.returncode == 0
    assert demo(layout, "down").wait(timeout=120) == 0
    assert_nothing_runs(layout)
