# SPDX-License-Identifier: Apache-2.0
"""The ``XenAPI`` module: today's, and 1.2 of the year 2009 under Python 2.7."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.clients.conftest import absent
from tests.clients.environments import HERE, find_python
from tests.clients.host_process import started
from tests.sim.clients import Refused

PROGRAM = HERE / "programs" / "life_of_a_vm.py"


def current(environment):
    return [environment("xenapi") / "bin" / "python"], {}


def of_2009(environment):
    folder = environment("xenapi-1.2")
    python = find_python("2.7")
    if python is None:
        absent("XenAPI 1.2 is Python 2, and there is no Python 2.7 here")
    return [python], {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module", params=["http", "https"])
def host(request, tmp_path_factory):
    tls = ["--tls"] if request.param == "https" else []
    with started(tmp_path_factory.mktemp("xenapi") / "host", *tls) as process:
        yield process


@pytest.fixture(scope="module", params=[current, of_2009], ids=["current", "1.2"])
def answers(request, environment, host):
    """What the program was answered; it left its VM running."""
    command, environ = request.param(environment)
    url = host.url
    if host.certificate is not None:
        environ["SSL_CERT_FILE"] = str(host.certificate)
        # Python 2.7 finds no addresses in certificates.
        url = url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [*command, PROGRAM, url],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vm_is_there_as_it_was_told(host, answers):
    vm, vdi, vif = answers["refs"]
    with host.look() as client:
        record = client.call("VM.get_record", vm)
        assert client.call("VDI.get_other_config", vdi) == {"made-by": "life_of_a_vm"}
        (vbd,) = record["VBDs"]
        assert client.call("VBD.get_VDI", vbd) == vdi
        assert client.call("VBD.get_currently_attached", vbd)
    assert record["VIFs"] == [vif]
    assert record["VCPUs_max"] == 2
    assert record["memory_static_max"] == 1 << 30
    # It is eight thousand letters that are none of ASCII's.
    assert len(record["name_description"]) == 8000
    assert answers["text kept"]


def test_record_reads_as_hosts_write_it(host, answers):
    """Numbers are strings on this wire, and every field is there."""
    told = answers["record"]
    with host.look() as client:
        record = client.call("VM.get_record", answers["refs"][0])
    assert set(told) == set(record)
    assert told["uuid"] == record["uuid"]
    assert told["VCPUs_max"] == "2"
    assert told["memory_static_max"] == str(1 << 30)
    assert answers["states"][-1] == told["power_state"] == "Running"
    assert answers["version"].startswith("2.")


def test_refusals_reach_the_caller(answers):
    vm = answers["refs"][0]
    assert answers["twice"] == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    assert answers["no such method"] == ["MESSAGE_METHOD_UNKNOWN", "VM.levitate"]


def test_lost_session_was_opened_again_and_closed(host, answers):
    first, second = answers["sessions"]
    assert answers["state"] == "Running"
    assert first != second
    with host.look() as client:
        assert client.raw("pool.get_all", first)
        with pytest.raises(Refused, match="SESSION_INVALID"):
            client.raw("pool.get_all", second)
