# SPDX-License-Identifier: Apache-2.0
"""What events tell of our own changes, and what is done where none tells."""

import threading

import pytest

from tests import embedded
from tests.sim.clients import vdi_record, wait_until
from xenapi_driver.xapi import errors, events
from xenapi_driver.xapi.task import TaskRecord
from xenapi_driver.xapi.vdi import VdiRecord

MIB = 2**20


@pytest.fixture
def disk(sim, operator):
    sr = operator.call("SR.get_by_uuid", sim.default_sr_uuid)
    return operator.call("VDI.create", vdi_record(sr, virtual_size=str(2 * MIB)))


@pytest.mark.parametrize("name", ["virtual_disk", "disk"])
@pytest.mark.parametrize("field", ["name_label", "name_description"])
def test_setting_a_field_costs_one_request(session, disk, field, name):
    wait_until(lambda: disk in session.records[VdiRecord])
    received = session.requests.polls_received
    with session.requests.recording() as made:
        session.call(f"VDI.set_{field}", disk, name)
        record = session.records[VdiRecord][disk]
    assert list(made) == [f"VDI.set_{field}"]
    assert record.name_label == (name if field == "name_label" else "disk")
    # All objects were not read again.
    assert session.requests.polls_received - received < 20_000


def test_a_change_whose_event_was_lost_is_seen_by_the_next_reader(sim, session, disk):
    wait_until(lambda: disk in session.records[VdiRecord])
    sim.faults.add("VDI.set_name_label", action="lose")
    session.call("VDI.set_name_label", disk, "new")
    assert session.records[VdiRecord][disk].name_label == "new"


def test_what_a_call_left_that_failed_is_seen_by_all_readers(sim, session, disk):
    wait_until(lambda: disk in session.records[VdiRecord])
    sim.faults.add("VDI.set_name_label", ["TROUBLE"], after=True)
    with pytest.raises(errors.XapiFailure):
        session.call("VDI.set_name_label", disk, "new")
    names = []

    def read():
        names.append(session.records[VdiRecord][disk].name_label)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert names == ["new"] * 3


def test_a_task_that_came_and_went_unseen_is_gone(sim):
    with embedded.session(embedded.through(sim.serve())) as session:
        session.records  # noqa: B018 (everything is read)
        wait_until(lambda: sim.requests.polls >= 2)  # it listens
        with session.events.watch(TaskRecord, "OpaqueRef:never-told-of") as watch:
            sim.act("host", what="restart")
            assert isinstance(watch.next(10), events.Gone)


def test_a_listener_that_fails_leaves_the_others_theirs(session, disk):
    session.records  # noqa: B018 (as above)
    heard = []

    def fail(_changes):
        raise RuntimeError("a fault of a test")

    session.events.subscribe(fail)
    session.events.subscribe(heard.extend)
    session.call("VDI.set_name_label", disk, "new")
    wait_until(lambda: any(change.ref == disk for change in heard))
    session.call("VDI.set_name_label", disk, "newer")
    assert session.records[VdiRecord][disk].name_label == "newer"
