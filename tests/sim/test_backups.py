# SPDX-License-Identifier: Apache-2.0
"""Changed blocks, snapshots without data, NBD, and disks that move under a guest."""

import base64

import pytest

from tests.sim.clients import refusal, vbd_record, vdi_record, vm_record
from xenapi_driver.sim.storage import cbt

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def disk(local, sr):
    """A disk whose changes are noted."""
    disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
    local.call("VDI.enable_cbt", disk)
    return disk


@pytest.fixture
def write(sim, local, sr):
    def write(disk, offset, data):
        where = local.call("VDI.get_location", disk)
        sim.world.stores[sr].write(where, offset, data)

    return write


def changed(client, first, last):
    """Return the numbers of the 64 KiB blocks that changed."""
    raw = base64.b64decode(client.call("VDI.list_changed_blocks", first, last))
    assert len(raw) == SIZE // cbt.BLOCK // 8
    return [n for n in range(len(raw) * 8) if raw[n >> 3] & 0x80 >> (n & 7)]


def test_changes_between_snapshots_are_told(sim, client):
    sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
    disk = client.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
    store, where = sim.world.stores[sr], client.call("VDI.get_location", disk)
    store.write(where, MIB, b"before")
    client.call("VDI.enable_cbt", disk)
    first = client.call("VDI.snapshot", disk)
    store.write(where, 0, b"x")
    store.write(where, 3 * cbt.BLOCK - 1, b"on the border")
    second = client.call("VDI.snapshot", disk)
    assert client.call("VDI.get_cbt_enabled", second) is True
    store.write(where, SIZE - 1, b"x")
    assert changed(client, first, second) == [0, 2, 3]
    assert changed(client, second, disk) == [127]
    assert changed(client, first, disk) == [0, 2, 3, 127]


def test_a_snapshot_without_data_still_tells(sim, local, sr, disk, write):
    first = local.call("VDI.snapshot", disk)
    write(disk, 0, b"x")
    vm = local.call("VM.create", vm_record())
    vbd = local.call("VBD.create", vbd_record(vm, first, mode="RO"))
    local.call("VDI.data_destroy", first)
    assert local.call("VDI.get_type", first) == "cbt_metadata"
    assert refusal(local, "VBD.get_record", vbd)[0] == "HANDLE_INVALID"
    assert sim.settle_storage()
    # Only the disk is left of the chain, and nothing is forgotten.
    assert len(list(sim.sr_path.glob("*.vhd"))) == 1
    assert changed(local, first, disk) == [0]
    local.call("SR.scan", sr)
    second = local.call("VDI.snapshot", disk)
    write(disk, MIB, b"x")
    assert changed(local, first, second) == [0]
    assert changed(local, first, disk) == [0, 16]
    for ref in (first, second, disk):
        local.call("VDI.destroy", ref)
    assert list(sim.sr_path.glob("*.cbtlog")) == []


def test_a_snapshot_whose_data_stays_keeps_its_drives(sim, local, sr, disk):
    first = local.call("VDI.snapshot", disk)
    vbd = local.call(
        "VBD.create", vbd_record(local.call("VM.create", vm_record()), first, mode="RO")
    )
    where = local.call("VDI.get_location", first)
    sim.world.stores[sr].path_of(where).unlink()
    assert refusal(local, "VDI.data_destroy", first)[0] == "SR_BACKEND_FAILURE_80"
    assert local.call("VDI.get_VBDs", first) == [vbd]


def test_what_has_no_data_is_neither_used_nor_copied(local, sr, disk):
    snapshot = local.call("VDI.snapshot", disk)
    local.call("VDI.data_destroy", snapshot)
    vm = local.call("VM.create", vm_record())
    record = vbd_record(vm, snapshot, mode="RO")
    refused = ["VDI_INCOMPATIBLE_TYPE", snapshot, "CBT metadata"]
    assert refusal(local, "VBD.create", record) == refused
    for method, *params in (
        ("VDI.clone",),
        ("VDI.snapshot",),
        ("VDI.copy", sr),
        ("VDI.resize", str(2 * SIZE)),
    ):
        assert refusal(local, method, snapshot, *params) == refused
    assert sorted(local.call("VDI.get_allowed_operations", snapshot)) == [
        "destroy",
        "forget",
        "update",
    ]


def test_a_snapshot_that_goes_leaves_its_changes_to_the_next(local, disk, write):
    first = local.call("VDI.snapshot", disk)
    write(disk, 0, b"x")
    second = local.call("VDI.snapshot", disk)
    write(disk, MIB, b"x")
    local.call("VDI.destroy", second)
    assert changed(local, first, disk) == [0, 16]


def test_what_is_not_tracked_is_refused(local, sr, disk, write):
    stranger = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
    snapshot = local.call("VDI.snapshot", disk)
    for pair in ((disk, stranger), (stranger, disk), (disk, disk), (disk, snapshot)):
        code = refusal(local, "VDI.list_changed_blocks", *pair)[0]
        assert code == "SR_BACKEND_FAILURE_460"
    local.call("VDI.disable_cbt", disk)
    assert refusal(local, "VDI.list_changed_blocks", snapshot, disk)[0] == (
        "SR_BACKEND_FAILURE_460"
    )
    untracked = local.call("VDI.snapshot", disk)
    assert local.call("VDI.get_cbt_enabled", untracked) is False
    assert refusal(local, "VDI.data_destroy", untracked) == [
        "VDI_NO_CBT_METADATA",
        untracked,
    ]
    assert refusal(local, "VDI.data_destroy", disk)[0] == "OPERATION_NOT_ALLOWED"


def test_only_plain_disks_are_tracked(local, sr, disk):
    snapshot = local.call("VDI.snapshot", disk)
    assert refusal(local, "VDI.enable_cbt", snapshot)[0] == "OPERATION_NOT_ALLOWED"
    suspend = local.call("VDI.create", vdi_record(sr, type="suspend"))
    assert refusal(local, "VDI.enable_cbt", suspend) == [
        "VDI_INCOMPATIBLE_TYPE",
        suspend,
        "Suspend",
    ]
    refused = ["VDI_CBT_ENABLED", disk]
    assert refusal(local, "VDI.set_on_boot", disk, "reset") == refused
    local.call("VDI.disable_cbt", disk)
    local.call("VDI.set_on_boot", disk, "reset")
    assert refusal(local, "VDI.enable_cbt", disk) == [
        "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"
    ]


def test_an_interrupted_write_makes_the_log_unsure(sim, local, disk, write):
    snapshot = local.call("VDI.snapshot", disk)
    write(disk, 0, b"x")
    path = sim.sr_path / f"{local.call('VDI.get_uuid', disk)}.vhd"
    cbt.open_for_writing(path)  # and a kill before the end
    assert refusal(local, "VDI.list_changed_blocks", snapshot, disk)[0] == (
        "SR_BACKEND_FAILURE_460"
    )


def test_a_disk_is_read_over_nbd_where_a_network_is_for_that(local, disk):
    assert local.call("VDI.get_nbd_info", disk) == []
    (pif, *_) = [
        ref
        for ref, row in local.call("PIF.get_all_records").items()
        if row["management"]
    ]
    network, address = local.call("PIF.get_network", pif), local.call("PIF.get_IP", pif)
    local.call("network.add_purpose", network, "nbd")
    (found,) = local.call("VDI.get_nbd_info", disk)
    uuid = local.call("VDI.get_uuid", disk)
    assert found["exportname"] == f"/{uuid}?session_id={local.session}"
    assert (found["address"], int(found["port"])) == (address, 10809)
    host = local.call("PIF.get_host", pif)
    assert found["cert"] == local.call("host.get_server_certificate", host)
    assert found["cert"].startswith("-----BEGIN CERTIFICATE-----")
    assert found["subject"] == local.call("host.get_hostname", host)
    snapshot = local.call("VDI.snapshot", disk)
    local.call("VDI.data_destroy", snapshot)
    assert refusal(local, "VDI.get_nbd_info", snapshot) == [
        "VDI_INCOMPATIBLE_TYPE",
        snapshot,
        "CBT metadata",
    ]


# under a running guest


@pytest.fixture
def elsewhere(local):
    host = local.call("host.get_all")[0]
    config = {"server": "nfs.example.org", "serverpath": "/srv"}
    about = [config, "0", "other", "", "nfs", "user", True, {}]
    return local.call("SR.create", host, *about)


def running(client, disk):
    vm = client.call("VM.create", vm_record())
    vbd = client.call("VBD.create", vbd_record(vm, disk))
    client.call("VM.start", vm, False, False)
    return vm, vbd


def test_a_disk_moves_while_its_guest_runs(sim, local, sr, elsewhere):
    disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
    local.call("VDI.set_name_label", disk, "moving")
    store = sim.world.stores[sr]
    store.write(local.call("VDI.get_location", disk), MIB, b"payload")
    _vm, vbd = running(local, disk)
    record = local.task("Async.VDI.pool_migrate", disk, elsewhere, {})
    new = local.call("VBD.get_VDI", vbd)
    assert record["result"] == f"<value>{new}</value>"
    assert new != disk
    about = local.call("VDI.get_record", new)
    assert (about["SR"], about["name_label"]) == (elsewhere, "moving")
    assert refusal(local, "VDI.get_record", disk)[0] == "HANDLE_INVALID"
    found = sim.world.stores[elsewhere].read(about["location"], MIB, 7)
    assert found == b"payload"
    assert local.call("VBD.get_currently_attached", vbd) is True


def test_what_cannot_move_is_told(local, sr, disk, elsewhere):
    def move(sr=elsewhere):
        return refusal(local, "VDI.pool_migrate", disk, sr, {})

    assert move() == ["VDI_NEEDS_VM_FOR_MIGRATE", disk]
    vm, _vbd = running(local, disk)
    assert move() == ["VDI_CBT_ENABLED", disk]
    local.call("VDI.disable_cbt", disk)
    (dvd, *_) = local.call("SR.get_by_name_label", "DVD drives")
    assert move(dvd)[:2] == ["SR_DOES_NOT_SUPPORT_MIGRATION", dvd]
    for pbd in local.call("SR.get_PBDs", elsewhere):
        local.call("PBD.unplug", pbd)
    assert move() == ["SR_NOT_ATTACHED", elsewhere]
    local.call("VM.pause", vm)
    assert move() == ["VDI_NEEDS_VM_FOR_MIGRATE", disk]
