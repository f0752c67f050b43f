# SPDX-License-Identifier: Apache-2.0
"""Daemons are stopped by what was recorded, and nothing else is."""

import json
import os
import socket
import sys
import time

import pytest

from demo.failure import DemoFailure
from demo.layout import Layout
from demo.processes import Processes, started_at

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
# A child that outlives its parent's end on SIGTERM.
FAMILY = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n",
]


@pytest.fixture
def processes(tmp_path):
    layout = Layout(tmp_path, 30000)
    layout.log.mkdir()
    layout.run.mkdir()
    made = Processes(layout)
    yield made
    made.stop_all(())


def wait_for(seen):
    deadline = time.monotonic() + 10
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen()


def test_stop_ends_what_start_began(processes):
    processes.start("sleeper", SLEEPER)
    pid = processes.pid("sleeper")
    assert started_at(pid) is not None
    processes.stop("sleeper")
    assert started_at(pid) is None
    assert processes.names() == []


def test_stop_ends_the_children_too(processes):
    processes.start("family", FAMILY)
    log = processes.layout.log_of("family")
    assert wait_for(lambda: log.read_text().endswith("\n"))
    child = int(log.read_text())
    processes.stop("family")
    assert wait_for(lambda: started_at(child) is None)


def test_recycled_pid_is_left_alone(processes):
    record = processes.layout.run / "other.json"
    record.write_text(json.dumps({"pid": os.getpid(), "start": "1"}))
    assert processes.pid("other") is None
    processes.stop("other")
    assert not record.exists()


def test_stop_of_nothing_is_quiet(processes):
    processes.stop("never-started")


def test_taken_port_is_refused_in_words(processes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DemoFailure, match="DEMO_PORT_OFFSET"):
            processes.start("late", SLEEPER, listens=port)
    assert processes.names() == []


def test_daemon_that_ends_early_names_its_log(processes):
    processes.start("short", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(DemoFailure) as caught:
        processes.wait("short", lambda: False, "to be ready", 10)
    assert caught.value.seen == "it ended early"
    assert caught.value.log == processes.layout.log_of("short")


def test_failed_command_names_its_log(processes):
    with pytest.raises(DemoFailure) as caught:
        processes.command([sys.executable, "-c", "raise SystemExit(3)"], "tool")
    assert caught.value.seen == "status 3"
    assert caught.value.log == processes.layout.log_of("tool")


def test_services_do_not_see_another_clouds_environment(processes, monkeypatch):
    monkeypatch.setenv("OS_AUTH_URL", "http://elsewhere")
    monkeypatch.setenv("http_proxy", "http://proxy")
    env = processes.environment({"OS_KEYSTONE_CONFIG_DIR": "here"})
    assert "OS_AUTH_URL" not in env
    assert "http_proxy" not in env
    assert env["OS_KEYSTONE_CONFIG_DIR"] == "here"
