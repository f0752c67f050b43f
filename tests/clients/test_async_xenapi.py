# SPDX-License-Identifier: Apache-2.0
"""PyPI's ``async-xenapi``: JSON-RPC 2.0 over aiohttp's kept-alive connections."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.clients.environments import HERE
from tests.clients.host_process import started

PROGRAM = HERE / "programs" / "many_at_once.py"


@pytest.fixture(scope="module", params=["http", "https"])
def host(request, tmp_path_factory):
    tls = ["--tls"] if request.param == "https" else []
    with started(tmp_path_factory.mktemp("async") / "host", *tls) as process:
        yield process


@pytest.fixture(scope="module")
def answers(environment, host):
    """What the program was answered; it left its VM running, with snapshots."""
    done = subprocess.run(
        [environment("async-xenapi") / "bin" / "python", PROGRAM, host.url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vm_runs(host, answers):
    """Numbers are numbers on this wire."""
    record = host.record("VM", name_label="async")
    assert record["ref"] == answers["vm"]
    assert record["power_state"] == "Running"
    assert len(answers["records"]) == 50
    for told in answers["records"]:
        assert told["power_state"] == "Halted"
        assert told["uuid"] == record["uuid"]
        assert told["memory_static_max"] == record["memory_static_max"]


def test_event_ends_the_wait(answers):
    assert answers["quiet"], "event.from ended before anything happened"
    assert answers["told"] == {answers["vm"]: "Running"}
    assert answers["seconds"] < 5


def test_snapshots_at_once_are_all_there(host, answers):
    made = host.records("VM", is_a_snapshot=True)
    assert len(answers["copies"]) == 8
    assert sorted(answers["copies"]) == sorted(record["ref"] for record in made)
    assert {record["snapshot_of"] for record in made} == {answers["vm"]}


def test_refusals_name_code_and_parameters(answers):
    vm = answers["vm"]
    assert "'message': 'VM_BAD_POWER_STATE'" in answers["twice"]
    assert f"['{vm}', 'halted', 'running']" in answers["twice"]
    assert "'MESSAGE_METHOD_UNKNOWN', 'data': ['VM.levitate']" in answers["unknown"]
    assert "SESSION_AUTHENTICATION_FAILED" in answers["wrong"]
