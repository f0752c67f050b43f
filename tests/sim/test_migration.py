# SPDX-License-Identifier: Apache-2.0
"""Guests whose disks go with them, inside a pool and to another."""

import threading

import pytest

from tests.sim.clients import (
    GIB,
    XmlClient,
    vbd_record,
    vdi_record,
    vm_record,
    wait_until,
)
from tests.sim.pools import (
    guest,
    hosts_of,
    local_sr,
    management_network,
    prepared,
    refused,
    send,
    shared_sr,
    store_of,
)
from xenapi_driver.sim.vms import cpus


def test_disks_move_between_srs_of_a_pool(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    store, name = store_of(pair.world, vdi)
    store.write(name, 4096, b"content of the disk")
    client.call("VM.start", vm, False, False)
    net = management_network(client)
    dest = client.call("host.migrate_receive", second, net, {})
    target = local_sr(client, second)
    refused("VDI_NOT_IN_MAP", client.call, *send(vm, dest, {}))
    answer = client.call(*send(vm, dest, {vdi: target}))
    assert answer == vm
    assert client.call("VM.get_resident_on", vm) == second
    (vbd,) = client.call("VM.get_VBDs", vm)
    new = client.call("VBD.get_VDI", vbd)
    assert client.call("VDI.get_SR", new) == target
    store, name = store_of(pair.world, new)
    assert store.read(name, 4096, 19) == b"content of the disk"
    refused("HANDLE_INVALID", client.call, "VDI.get_record", vdi)


@pytest.mark.parametrize("state", ["Halted", "Running"])
def test_a_vm_moves_to_another_pool(neighbours, state):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    if state == "Running":
        here.call("VM.start", vm, False, False)
    uuid = here.call("VM.get_uuid", vm)
    mac = here.call("VIF.get_MAC", *vifs)
    refused("VIF_NOT_IN_MAP", here.call, *send(vm, dest, vdis))
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("UUID_INVALID", here.call, "VM.get_by_uuid", uuid)
    for vdi in vdis:
        refused("HANDLE_INVALID", here.call, "VDI.get_record", vdi)
    record = there.call("VM.get_record", new)
    assert (record["uuid"], record["power_state"]) == (uuid, state)
    assert there.call("VIF.get_MAC", *record["VIFs"]) == mac
    vdi = there.call("VBD.get_VDI", *record["VBDs"])
    store, name = store_of(sim.machines.all[1].world, vdi)
    assert store.read(name, 0, 7) == b"luggage"


def test_maps_name_what_there_is(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    nowhere = "OpaqueRef:00000000-0000-0000-0000-000000000000"
    net, sr = next(iter(vifs.values())), next(iter(vdis.values()))
    for cls, maps in (
        ("VDI", ({**vdis, nowhere: sr}, vifs)),
        ("SR", (dict.fromkeys(vdis, nowhere), vifs)),
        ("VIF", (vdis, {**vifs, nowhere: net})),
        ("network", (vdis, dict.fromkeys(vifs, nowhere))),
    ):
        call = send(vm, dest, *maps)
        assert refused("HANDLE_INVALID", here.call, *call) == [cls, nowhere]
    call = (*send(vm, dest, vdis, vifs), {nowhere: nowhere})
    assert refused("HANDLE_INVALID", here.call, *call) == ["VGPU", nowhere]
    assert here.call("VM.get_power_state", vm) == "Halted"


def test_a_copy_leaves_the_source(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    new = here.call(*send(vm, dest, vdis, vifs, {"copy": "true"}))
    uuids = here.call("VM.get_uuid", vm), there.call("VM.get_uuid", new)
    assert uuids[0] != uuids[1]
    assert here.call("VDI.get_record", *vdis)["managed"]
    here.call("VM.start", vm, False, False)
    refused(
        "VM_BAD_POWER_STATE",
        here.call,
        *send(vm, dest, vdis, vifs, {"copy": "true"}),
    )


def test_a_migration_that_fails_leaves_nothing_there(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    far = sim.machines.all[1].world
    (sr,) = vdis.values()
    before = set(there.call("VDI.get_all")), set(there.call("VM.get_all"))
    files = sorted(far.stores[sr].path.iterdir())
    far.stores[sr].size_bytes = 0
    refused("SR_BACKEND_FAILURE_44", here.call, *send(vm, dest, vdis, vifs))
    assert here.call("VM.get_power_state", vm) == "Halted"
    assert here.call("VDI.get_record", *vdis)["managed"]
    assert (set(there.call("VDI.get_all")), set(there.call("VM.get_all"))) == before
    assert sorted(far.stores[sr].path.iterdir()) == files


def test_the_ticket_is_good_as_long_as_its_session(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    arguments = (vm, dest, True, vdis, vifs, {})
    here.call("VM.assert_can_migrate", *arguments)
    there.raw("session.logout", dest["session_id"])
    refused("SESSION_INVALID", here.call, "VM.assert_can_migrate", *arguments)


def test_shared_disks_stay_where_they_are(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, shared_sr(client))
    local = local_sr(client, first)
    extra = client.call("VDI.create", vdi_record(local, virtual_size=str(GIB // 64)))
    client.call("VBD.create", vbd_record(vm, extra, userdevice="1"))
    client.call("VM.start_on", vm, first, False, False)
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    moves = {extra: local_sr(client, second)}
    assert refused("VDI_NOT_IN_MAP", client.call, *send(vm, dest, moves)) == [vdi]
    stays = {vdi: client.call("VDI.get_SR", vdi)}
    call = send(vm, dest, {**stays, extra: local})
    assert refused("VM_REQUIRES_SR", client.call, *call) == [vm, local]
    client.call(*send(vm, dest, {**stays, **moves}))
    used = [client.call("VBD.get_VDI", vbd) for vbd in client.call("VM.get_VBDs", vm)]
    assert vdi in used
    assert extra not in used
    assert client.call("VM.get_resident_on", vm) == second


def test_a_host_of_the_pool_that_cannot_have_a_guest_leaves_it_where_it_is(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    client.call("VM.start_on", vm, first, False, False)
    dest = client.call("host.migrate_receive", second, management_network(client), {})

    def refusal(code, sr):
        method, *arguments = send(vm, dest, {vdi: sr})
        # A real host has this answer too.
        client.call("VM.assert_can_migrate", *arguments)
        found = refused(code, client.call, method, *arguments)
        assert client.call("VM.get_resident_on", vm) == first
        assert client.call("VDI.get_SR", vdi) == local_sr(client, first)
        return found

    here = local_sr(client, first)
    assert refusal("VM_REQUIRES_SR", here) == [vm, here]
    free = int(client.call("host.compute_free_memory", second))
    limits = [str(free - GIB)] * 4
    large = client.call("VM.create", vm_record())
    client.call("VM.set_memory_limits", large, *limits)
    client.call("VM.start_on", large, second, False, False)
    wanted, left = refusal("HOST_NOT_ENOUGH_FREE_MEMORY", local_sr(client, second))
    assert int(wanted) > int(left) >= 0


def test_a_snapshot_goes_along_and_two_do_not(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    snapshot = here.call("VM.snapshot", vm, "before")
    uuid = here.call("VM.get_uuid", snapshot)
    ((disk, _),) = vdis.items()
    store, name = store_of(sim.world, disk)
    store.write(name, 0, b"changed")
    second = here.call("VM.snapshot", vm, "again")
    refused("VM_HAS_TOO_MANY_SNAPSHOTS", here.call, *send(vm, dest, vdis, vifs))
    for vbd in here.call("VM.get_VBDs", second):
        vdi = here.call("VBD.get_VDI", vbd)
        here.call("VM.destroy", second)
        here.call("VDI.destroy", vdi)
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("HANDLE_INVALID", here.call, "VM.get_record", snapshot)
    (kept,) = there.call("VM.get_snapshots", new)
    record = there.call("VM.get_record", kept)
    assert (record["uuid"], record["is_a_snapshot"]) == (uuid, True)
    world = sim.machines.all[1].world
    for ref, content in ((new, b"changed"), (kept, b"luggage")):
        vdi = there.call("VBD.get_VDI", *there.call("VM.get_VBDs", ref))
        store, name = store_of(world, vdi)
        assert store.read(name, 0, 7) == content
    assert there.call("VDI.get_is_a_snapshot", vdi)
    left = [row["name_label"] for row in here.call("VDI.get_all_records").values()]
    assert "disk" not in left


def test_a_checkpoint_goes_to_no_other_pool(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    here.call("VM.start", vm, False, False)
    here.call("VM.checkpoint", vm, "held")
    refused("VM_HAS_CHECKPOINT", here.call, *send(vm, dest, vdis, vifs))


def test_a_suspended_guest_goes_on_in_another_pool(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    here.call("VM.start", vm, False, False)
    here.call("VM.suspend", vm)
    image = here.call("VM.get_suspend_VDI", vm)
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("HANDLE_INVALID", here.call, "VDI.get_record", image)
    record = there.call("VM.get_record", new)
    assert record["power_state"] == "Suspended"
    assert there.call("VDI.get_type", record["suspend_VDI"]) == "suspend"
    there.call("VM.resume", new, False, False)
    assert there.call("VM.get_power_state", new) == "Running"


def test_a_host_sends_three_at_once(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    call = send(vm, dest, {vdi: local_sr(client, second)})
    pair.world.sending.extend([first] * 3)
    assert refused("TOO_MANY_STORAGE_MIGRATES", client.call, *call) == ["3"]
    pair.world.sending.pop()
    client.call(*call)
    assert pair.world.sending == [first] * 2


def test_one_disk_of_a_running_guest_moves(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    shared = shared_sr(client)
    vm, vdi = guest(client, local_sr(client, first))
    store, name = store_of(pair.world, vdi)
    store.write(name, 512, b"still here")
    move = ("VDI.pool_migrate", vdi, shared, {})
    assert refused("VDI_NEEDS_VM_FOR_MIGRATE", client.call, *move) == [vdi]
    client.call("VM.start", vm, False, False)
    far = local_sr(client, second)
    refused("SR_NOT_ATTACHED", client.call, "VDI.pool_migrate", vdi, far, {})
    new = client.call(*move)
    assert client.call("VDI.get_SR", new) == shared
    assert client.call("VBD.get_VDI", *client.call("VM.get_VBDs", vm)) == new
    store, name = store_of(pair.world, new)
    assert store.read(name, 512, 10) == b"still here"
    refused("HANDLE_INVALID", client.call, "VDI.get_record", vdi)
    client.call("VM.pool_migrate", vm, second, {"live": "true"})
    assert client.call("VM.get_resident_on", vm) == second


def test_a_migration_can_be_cancelled_on_its_way(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    client.call("VM.start", vm, False, False)
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    target = local_sr(client, second)
    pair.faults.add("VM.migrate_send", action="hang")
    _, *arguments = send(vm, dest, {vdi: target})
    task = client.call("Async.VM.migrate_send", *arguments)
    assert "cancel" in client.call("task.get_allowed_operations", task)
    client.call("task.cancel", task)
    wait_until(lambda: client.call("task.get_status", task) != "pending")
    assert client.call("task.get_error_info", task) == ["TASK_CANCELLED", task]
    assert client.call("VM.get_resident_on", vm) == first
    assert client.call("VBD.get_VDI", *client.call("VM.get_VBDs", vm)) == vdi
    assert client.call("VM.get_current_operations", vm) == {}
    assert pair.world.sending == []


@pytest.mark.parametrize(
    "changes",
    [{"vendor": "AuthenticAMD"}, {"features_hvm": "00000000-00000000"}],
)
def test_a_guest_stays_with_its_kind_of_processor(pair, changes):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, shared_sr(client))
    client.call("VM.start_on", vm, first, False, False)
    info = pair.world.db.row("host", second)["cpu_info"]
    pair.world.db.update("host", second, cpu_info={**info, **changes})
    code = "VM_INCOMPATIBLE_WITH_THIS_HOST"
    move = ("VM.pool_migrate", vm, second)
    assert refused(code, client.call, *move, {"live": "true"})[:2] == [vm, second]
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    stays = {vdi: client.call("VDI.get_SR", vdi)}
    refused(code, client.call, *send(vm, dest, stays))
    refused(code, client.call, "host.evacuate", first)
    assert client.call("VM.get_resident_on", vm) == first
    client.call(*move, {"live": "true", "force": "true"})
    assert client.call("VM.get_resident_on", vm) == second


def test_sets_of_features_are_compared_word_by_word():
    assert cpus.is_subset("", "")
    assert cpus.is_subset("00000001-80000000", "00000003-80000000-00000001")
    assert cpus.is_subset("00000001-00000000", "00000001")
    assert not cpus.is_subset("00000001-00000002", "00000001")
    assert not cpus.is_subset("00000004", "00000003-ffffffff")


def test_a_vm_shows_that_it_is_on_its_way(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    _, *arguments = send(vm, dest, {vdi: local_sr(client, second)})
    store = pair.world.stores[local_sr(client, second)]
    under_way, go_on, stage = threading.Event(), threading.Event(), store.stage_data

    def slowly(*parts):
        under_way.set()
        assert go_on.wait(5)
        return stage(*parts)

    store.stage_data = slowly
    task = client.call("Async.VM.migrate_send", *arguments)
    assert under_way.wait(5)
    shown = client.call("VM.get_current_operations", vm)
    allowed = client.call("VM.get_allowed_operations", vm)
    go_on.set()
    wait_until(lambda: client.call("task.get_status", task) != "pending")
    assert client.call("task.get_status", task) == "success"
    assert shown == {task: "migrate_send"}
    assert "start" not in allowed
    assert client.call("VM.get_current_operations", vm) == {}
    assert client.call("VM.get_possible_hosts", vm) == [second]


def test_migrations_cross_each_other(neighbours):
    sim, here, there = neighbours
    ways = []
    for door, source, target in ((0, here, there), (1, there, here)):
        host = hosts_of(target)[0]
        for _ in range(2):
            vm, vdi = guest(source, local_sr(source, hosts_of(source)[0]))
            dest = target.call(
                "host.migrate_receive", host, management_network(target), {}
            )
            call = send(vm, dest, {vdi: local_sr(target, host)})
            ways.append((door, source.call("VM.get_uuid", vm), call))
    failed = []

    def go(door, call):
        try:
            XmlClient(sim.door(door)).call(*call)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=go, args=(door, call)) for door, _, call in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []
    for door, uuid, _ in ways:
        source, target = (here, there) if door == 0 else (there, here)
        assert target.call("VM.get_by_uuid", uuid)
        refused("UUID_INVALID", source.call, "VM.get_by_uuid", uuid)
    for client in (here, there):
        disks = client.call("VDI.get_all_records").values()
        assert sum(row["name_label"] == "disk" for row in disks) == 2
