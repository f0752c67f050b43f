# SPDX-License-Identifier: Apache-2.0
"""What look-ups cost, counted in rows looked at: never in time."""

import threading

import pytest

from tests.sim.clients import GIB, vif_record, vm_record
from xenapi_driver.sim.vms import memory

MANY = 300


@pytest.fixture
def crowd(local):
    """The references of many VMs."""
    return [
        local.call("VM.create", vm_record(name_label=f"vm-{number}"))
        for number in range(MANY)
    ]


@pytest.fixture
def visited(sim):
    """Count the rows that calls look at."""

    def count(function, *arguments):
        before = sim.world.db.visited
        found = function(*arguments)
        return sim.world.db.visited - before, found

    return count


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("VM.get_by_name_label", "vm-7"),
        ("VM.get_all_where", 'field "name__label" = "vm-7"'),
        ("VM.get_all_where", 'true and "vm-7" = field "name__label"'),
        ("VM.get_all_records_where", '(field "name__label" = "vm-7")'),
    ],
)
def test_a_name_is_found_without_a_search(local, crowd, visited, method, value):
    rows, found = visited(local.call, method, value)
    assert [crowd[7]] == list(found)
    assert rows <= 1


def test_a_uuid_is_found_without_a_search(local, crowd, visited):
    uuid = local.call("VM.get_uuid", crowd[9])
    assert (1, crowd[9]) == visited(local.call, "VM.get_by_uuid", uuid)
    rows, found = visited(local.call, "VM.get_all_where", f'field "uuid" = "{uuid}"')
    assert ([crowd[9]], True) == (found, rows <= 1)


def test_an_owner_names_its_own(local, crowd, visited, sim):
    network = local.call("network.get_all")[0]
    vifs = [
        local.call("VIF.create", vif_record(vm, network, device="0"))
        for vm in crowd[:20]
    ]
    rows, found = visited(local.call, "VIF.get_all_where", f'field "VM" = "{crowd[3]}"')
    assert ([vifs[3]], 1) == (found, rows)


def test_new_names_are_found_and_old_ones_are_not(local):
    vm = local.call("VM.create", vm_record(name_label="before"))
    local.call("VM.set_name_label", vm, "after")
    assert [] == local.call("VM.get_by_name_label", "before")
    assert [vm] == local.call("VM.get_by_name_label", "after")
    local.call("VM.destroy", vm)
    assert [] == local.call("VM.get_by_name_label", "after")


def test_either_of_two_names(local, crowd):
    text = 'field "name__label" = "vm-1" or field "name__label" = "vm-2"'
    assert crowd[1:3] == sorted(local.call("VM.get_all_where", text), key=crowd.index)
    text = 'not (field "name__label" = "vm-1") and field "name__label" = "vm-1"'
    assert [] == local.call("VM.get_all_where", text)


def test_events_cost_what_changed(local, crowd, sim):
    db = sim.world.db
    token = local.call("event.from", ["VM"], "", 0.0)["token"]
    since = int(token.partition(",")[0])
    local.call("VM.add_to_other_config", crowd[5], "key", "value")
    with db.changed:
        assert [("VM", crowd[5])] == [found[:2] for found in db.changed_since(since)]
    batch = local.call("event.from", ["VM"], token, 0.0)
    assert [crowd[5]] == [event["ref"] for event in batch["events"]]


def test_who_waits_looks_at_nothing_twice(local, crowd, sim):
    """A waiting event.from looks at each change of others once, not at all again."""
    db, looked = sim.world.db, []
    inner = db.changed_since

    def counted(since):
        for found in inner(since):
            looked.append(found)
            yield found

    db.changed_since = counted
    token = local.call("event.from", ["VM"], "", 0.0)["token"]
    looked.clear()
    batches = []
    waiter = threading.Thread(
        target=lambda: batches.append(local.call("event.from", ["VM"], token, 10.0))
    )
    waiter.start()
    network = local.call("network.get_all")[0]
    for number in range(30):
        local.call("network.set_name_label", network, f"name {number}")
    local.call("VM.set_name_label", crowd[0], "new")
    waiter.join(10)
    assert [crowd[0]] == [event["ref"] for event in batches[0]["events"]]
    assert len(looked) < 60


def test_a_start_looks_at_one_hosts_guests(sim, local, crowd, monkeypatch):
    """The room on a host is summed up again when its guests change, not before."""
    summed, inner = [], memory._free

    def counted(db, host, about):
        summed.append(len(about["resident_VMs"]))
        return inner(db, host, about)

    monkeypatch.setattr(memory, "_free", counted)
    host = local.call("host.get_all")[0]

    def room():
        return int(local.call("host.compute_free_memory", host))

    before = room()
    for vm in crowd[:10]:
        local.call("VM.start", vm, False, False)
    summed.clear()
    free = room()
    assert [room() for _ in range(5)] == [free] * 5
    assert len(summed) <= 1
    assert before - free >= 10 * GIB
    local.call("VM.hard_shutdown", crowd[0])
    assert room() - free >= GIB


def test_what_a_start_leaves_to_later_looks_at_one_guest(sim, local, crowd):
    db = sim.world.db
    db.visited = 0
    for vm in crowd[:10]:
        local.call("VM.add_to_xenstore_data", vm, "vm-data/name", vm)
        local.call("VM.start", vm, False, False)
    done = threading.Event()
    # Behind all that the starts have left to the same thread.
    sim.world.alarms.after(0.0, done.set)
    assert done.wait(10)
    assert db.visited < 10 * 20


def test_fresh_objects_share_nothing(sim):
    db = sim.world.db
    one, other = (db.row("VM", db.create("VM", {})) for _ in range(2))
    assert one["other_config"] is not other["other_config"]
    assert one["VBDs"] is not other["VBDs"]
