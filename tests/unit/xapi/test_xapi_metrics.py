# SPDX-License-Identifier: Apache-2.0
"""What the embedded host has measured, as typed values."""

import math
import time
import types

import pytest

from tests.sim.clients import vm_record
from tests.unit.xapi import embedded
from xenapi_driver.sim.doors import rrd_text
from xenapi_driver.sim.metrics.archives import Column
from xenapi_driver.xapi import errors, metrics

NOWHERE = "00000000-0000-0000-0000-000000000001"
ASKED = "GET /rrd_updates"


@pytest.fixture
def sim(place):
    return place[0]


@pytest.fixture
def session(place):
    session = place[1]
    # A host that has just started has measured nothing yet.
    old = str(time.time() - 3000)
    session.call("host.remove_from_other_config", session.host_ref, "boot_time")
    session.call("host.add_to_other_config", session.host_ref, "boot_time", old)
    return session


@pytest.fixture
def dom0_uuid(session):
    ref = session.call("host.get_control_domain", session.host_ref)
    return session.call("VM.get_uuid", ref)


@pytest.fixture
def vm_uuid(session):
    ref = session.call("VM.create", vm_record(VCPUs_max="2"))
    session.call("VM.start", ref, False, False)
    return session.call("VM.get_uuid", ref)


def until_known(session, vm_uuid):
    """Return the values of a VM once there is a sample of it."""
    return embedded.soon(lambda: metrics.of_vm(session, vm_uuid), seconds=20)


def test_host_and_vms_in_one_request(session, dom0_uuid):
    with session.requests.recording() as names:
        found = metrics.of_host(session)
    assert names == [ASKED]
    assert abs(found.time - time.time()) < 60
    ref = session.call("host.get_metrics", session.host_ref)
    total = int(session.call("host_metrics.get_memory_total", ref))
    assert found.host["memory_total_kib"] == total / 1024
    assert 0 <= found.host["cpu_avg"] <= 1
    assert found.vms[dom0_uuid]["memory"] > 0


def test_one_vm_alone(session, dom0_uuid):
    with session.requests.recording() as names:
        found = metrics.of_vm(session, dom0_uuid)
    assert names == [ASKED]
    assert 0 <= found["cpu0"] <= 1


def test_a_new_vm_is_there_once_it_was_measured(session, vm_uuid):
    values = until_known(session, vm_uuid)
    assert values["memory"] == 1 << 30
    assert {"cpu0"} <= set(values)
    assert all(math.isfinite(value) for value in values.values())


def test_a_vm_that_does_not_run_has_no_values(session):
    session.call("VM.create", vm_record())
    assert metrics.of_vm(session, NOWHERE) == {}


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("quote", ['"', ""])
def test_unknown_values_are_missing(session, dom0_uuid, monkeypatch, text, quote):
    value, written = Column.value, rrd_text.updates_json

    def unknown(column, *args):
        if column.source.name in ("cpu_avg", "memory"):
            return float(text.replace("Infinity", "inf"))
        return value(column, *args)

    def said(*args):
        quoted = f'"{text}"'.encode()
        body = written(*args)
        assert quoted in body
        return body.replace(quoted, f"{quote}{text}{quote}".encode())

    monkeypatch.setattr(Column, "value", unknown)
    monkeypatch.setattr(rrd_text, "updates_json", said)
    found = metrics.of_host(session)
    assert "cpu_avg" not in found.host
    assert "memory" not in found.vms[dom0_uuid]
    assert "cpu0" in found.vms[dom0_uuid]


def test_our_clock_may_be_ahead(session, monkeypatch):
    ahead = types.SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr(metrics, "time", ahead)
    with session.requests.recording() as names:
        assert metrics.of_host(session).host["memory_total_kib"] > 0
    assert names == [ASKED, ASKED]


def test_our_clock_may_be_behind(session, monkeypatch):
    behind = types.SimpleNamespace(time=lambda: time.time() - 3600)
    monkeypatch.setattr(metrics, "time", behind)
    assert metrics.of_host(session).host["memory_total_kib"] > 0


def test_what_is_no_table_is_a_bad_answer(session, monkeypatch):
    monkeypatch.setattr(rrd_text, "updates_json", lambda *args: b"<xport/>")
    with pytest.raises(errors.BadAnswer, match="no table"):
        metrics.of_host(session)


def test_a_cut_answer(sim, session):
    sim.faults.add(ASKED, action="cut")
    with pytest.raises(errors.ConnectionLost):
        metrics.of_host(session)


def test_each_host_tells_of_its_own(tmp_path):
    places = ("127.0.0.1", "127.0.0.2")
    with embedded.host(tmp_path, hosts=2, addresses=places) as (sim, session):
        port = sim.machines.all[0].doors[0].port
        sim.serve(places[1], port, machine=1)
        (other,) = set(session.call("host.get_all")) - {session.host_ref}
        vm = session.call("VM.create", vm_record())
        session.call("VM.start_on", vm, other, False, False)
        uuid = session.call("VM.get_uuid", vm)
        assert embedded.soon(lambda: metrics.of_vm(session, uuid, other), seconds=20)
        assert metrics.of_vm(session, uuid) == {}
        assert uuid in metrics.of_host(session, other).vms
        assert uuid not in metrics.of_host(session).vms
