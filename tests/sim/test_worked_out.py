# SPDX-License-Identifier: Apache-2.0
"""Fields that are worked out when read make events like stored ones."""

import pytest

from tests.sim.clients import vbd_record, vdi_record, vm_record
from xenapi_driver.sim import schema
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry


class Counting:
    """A registry in which a VBD's allowed_operations tell its VM's power state."""

    def __init__(self):
        self.calls = 0
        computed = {("VBD", "allowed_operations"): self.compute}
        self.db = Registry(schema.load(), computed)

    def compute(self, db, ref, row):
        self.calls += 1
        return [db.row("VM", row["VM"])["power_state"]]

    def modified(self, vbd):
        self.db.settle()
        return self.db.stamp("VBD", vbd).modified


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def objects(counting):
    vm = counting.db.create("VM", {"power_state": "Halted"})
    return vm, counting.db.create("VBD", {"VM": vm})


def test_worked_out_once_until_something_changes(counting, objects):
    vm, vbd = objects
    for _ in range(3):
        assert counting.db.value("VBD", vbd, "allowed_operations") == ["Halted"]
        assert counting.db.record("VBD", vbd)["allowed_operations"] == ["Halted"]
    assert counting.calls == 1
    counting.db.update("VM", vm, power_state="Running")
    assert counting.db.value("VBD", vbd, "allowed_operations") == ["Running"]
    assert counting.calls == 2


def test_change_of_another_object_is_a_change_of_this(counting, objects):
    vm, vbd = objects
    counting.db.record("VBD", vbd)
    before = counting.modified(vbd)
    counting.db.update("VM", vm, power_state="Running")
    after = counting.modified(vbd)
    assert after > before
    # Another field, the same value: no event.
    counting.db.update("VM", vm, name_label="renamed")
    assert counting.modified(vbd) == after


def test_read_between_change_and_look_does_not_swallow_the_event(counting, objects):
    vm, vbd = objects
    counting.db.record("VBD", vbd)
    before = counting.modified(vbd)
    counting.db.update("VM", vm, power_state="Running")
    counting.db.record("VBD", vbd)
    assert counting.modified(vbd) > before


def test_what_nobody_read_is_not_worked_out(counting, objects):
    vm, vbd = objects
    counting.db.update("VM", vm, power_state="Running")
    counting.modified(vbd)
    assert counting.calls == 0


def test_object_that_went_is_forgotten(counting, objects):
    vm, vbd = objects
    counting.db.record("VBD", vbd)
    counting.db.update("VM", vm, power_state="Running")
    counting.db.destroy("VBD", vbd)
    counting.db.settle()
    assert counting.calls == 1
    with pytest.raises(Failure):
        counting.db.value("VBD", vbd, "allowed_operations")


def test_half_made_change_stays_stale(counting, objects):
    """The VM goes first, its VBD later: the look between the two goes on."""
    vm, vbd = objects
    counting.db.record("VBD", vbd)
    counting.db.destroy("VM", vm)
    counting.db.settle()
    counting.db.destroy("VBD", vbd)
    counting.db.settle()


def operations_told(client, token, cls):
    batch = client.call("event.from", [cls.lower()], token, 0.0)
    events = [event for event in batch["events"] if event["operation"] == "mod"]
    told = {e["ref"]: e["snapshot"]["allowed_operations"] for e in events}
    return told, batch["token"]


def test_start_of_a_vm_tells_what_its_disk_allows(client):
    vm = client.call("VM.create", vm_record())
    pool = client.call("pool.get_all")[0]
    sr = client.call("pool.get_default_SR", pool)
    vdi = client.call("VDI.create", vdi_record(sr))
    client.call("VBD.create", vbd_record(vm, vdi))
    token = client.call("event.from", ["*"], "", 0.0)["token"]
    client.call("VM.start", vm, False, False)
    told, token = operations_told(client, token, "VDI")
    assert told == {vdi: client.call("VDI.get_allowed_operations", vdi)}
    assert "destroy" not in told[vdi]
    client.call("VM.hard_shutdown", vm)
    told, token = operations_told(client, token, "VDI")
    assert "destroy" in told[vdi]
    client.call("VM.set_name_label", vm, "renamed")
    assert operations_told(client, token, "VDI")[0] == {}
