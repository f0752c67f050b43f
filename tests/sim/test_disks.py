# SPDX-License-Identifier: Apache-2.0
"""VDI objects and the files behind them."""

import shutil
import uuid

from tests.sim.clients import (
    GIB,
    NULL,
    XmlClient,
    refusal,
    vbd_record,
    vdi_record,
    vm_record,
)
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.classes import vdi as vdi_class
from xenapi_driver.sim.storage import vhd_store


def names(sim):
    return sorted(path.stem for path in sim.sr_path.glob("*.vhd"))


def test_disk_is_a_file_named_after_it(sim, local, sr):
    vdi = local.call("VDI.create", vdi_record(sr, virtual_size=str(GIB + 1)))
    record = local.call("VDI.get_record", vdi)
    assert names(sim) == [record["uuid"]]
    assert int(record["virtual_size"]) == GIB + 2 * 1024**2
    assert record["managed"] is True


def test_clone_makes_a_hidden_parent(sim, local, sr):
    vdi = local.call("VDI.create", vdi_record(sr))
    twin = local.call("VDI.clone", vdi)
    records = local.call("VDI.get_all_records")
    hidden = [rec for rec in records.values() if rec["SR"] == sr and not rec["managed"]]
    assert [rec["name_label"] for rec in hidden] == ["base copy"]
    parent = hidden[0]["uuid"]
    for ref in (vdi, twin):
        assert records[ref]["sm_config"]["vhd-parent"] == parent
    assert len(names(sim)) == 3


def test_destroy_collects_parents(sim, local, sr):
    before = sim.inventory()
    vdi = local.call("VDI.create", vdi_record(sr))
    twin = local.call("VDI.clone", vdi)
    local.call("VDI.destroy", vdi)
    local.call("VDI.destroy", twin)
    assert sim.inventory() == before


def test_resize_grows_only(local, sr):
    vdi = local.call("VDI.create", vdi_record(sr))
    local.call("VDI.resize", vdi, str(2 * GIB))
    assert int(local.call("VDI.get_virtual_size", vdi)) == 2 * GIB
    assert refusal(local, "VDI.resize", vdi, str(GIB))[0] == "SR_BACKEND_FAILURE_79"


def test_copy_is_independent(sim, local, sr):
    vdi = local.call("VDI.create", vdi_record(sr))
    record = local.task("Async.VDI.copy", vdi, sr)
    assert record["status"] == "success"
    new = record["result"].removeprefix("<value>").removesuffix("</value>")
    local.call("VDI.destroy", vdi)
    assert names(sim) == [local.call("VDI.get_uuid", new)]


def test_copy_that_a_scan_meets_is_one_disk(sim, local, sr, monkeypatch):
    vdi = local.call("VDI.create", vdi_record(sr))
    before = set(local.call("VDI.get_all"))

    def scan_meanwhile(call, progress):
        local.call("SR.scan", sr)
        assert set(local.call("VDI.get_all")) == before

    monkeypatch.setattr(vdi_class.tasks, "set_progress", scan_meanwhile)
    new = local.call("VDI.copy", vdi, sr)
    assert set(local.call("VDI.get_all")) == {*before, new}
    assert local.call("VDI.get_name_label", new) == "disk"


def test_copy_that_fails_late_leaves_no_file(sim, local, sr, monkeypatch):
    vdi = local.call("VDI.create", vdi_record(sr))
    before = sorted(sim.sr_path.iterdir())

    def fail(store, uuid):
        raise vhd_store.Broken("no such luck")

    monkeypatch.setattr(vhd_store.SrStore, "publish", fail)
    assert refusal(local, "VDI.copy", vdi, sr)[0] == "SR_BACKEND_FAILURE_46"
    assert sorted(sim.sr_path.iterdir()) == before


def test_scan_finds_new_files_and_drops_vanished_ones(sim, local, sr):
    vdi = local.call("VDI.create", vdi_record(sr))
    old = local.call("VDI.get_uuid", vdi)
    new = str(uuid.uuid4())
    shutil.copy(sim.sr_path / f"{old}.vhd", sim.sr_path / f"{new}.vhd")
    (sim.sr_path / f"{old}.vhd").unlink()
    local.call("SR.scan", sr)
    found = local.call("VDI.get_by_uuid", new)
    assert int(local.call("VDI.get_virtual_size", found)) == GIB
    assert refusal(local, "VDI.get_record", vdi)[0] == "HANDLE_INVALID"


def test_broken_file_fails_the_scan(sim, local, sr):
    (sim.sr_path / f"{uuid.uuid4()}.vhd").write_bytes(b"rubbish" * 1000)
    assert refusal(local, "SR.scan", sr)[0] == "SR_BACKEND_FAILURE_40"


def test_full_sr(tmp_path):
    sim = Simulator(tmp_path, sr_size_bytes=5000)
    try:
        client = XmlClient(sim.handle)
        sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
        found = refusal(client, "VDI.create", vdi_record(sr))
        assert found[0] == "SR_BACKEND_FAILURE_44"
        assert names(sim) == []
    finally:
        sim.close()


def test_unplugged_sr_is_refused(local, sr):
    for pbd in local.call("SR.get_PBDs", sr):
        local.call("PBD.unplug", pbd)
    assert refusal(local, "VDI.create", vdi_record(sr)) == ["SR_HAS_NO_PBDS", sr]


def test_a_disk_that_resets_begins_anew_at_each_start(sim, local, sr):
    disk = local.call("VDI.create", vdi_record(sr))
    store, where = sim.world.stores[sr], local.call("VDI.get_location", disk)
    store.write(where, 0, b"kept")
    local.call("VDI.set_on_boot", disk, "reset")
    vm = local.call("VM.create", vm_record())
    local.call("VBD.create", vbd_record(vm, disk))
    local.call("VM.start", vm, False, False)
    store.write(where, 0, b"lost")
    assert store.read(where, 0, 4) == b"lost"
    local.call("VM.hard_shutdown", vm)
    local.call("SR.scan", sr)
    assert sim.settle_storage()
    local.call("VM.start", vm, False, False)
    assert store.read(where, 0, 4) == b"kept"
    assert refusal(local, "VDI.snapshot", disk) == [
        "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"
    ]
    local.call("VM.hard_shutdown", vm)
    local.call("VDI.set_on_boot", disk, "persist")
    assert sim.settle_storage()
    assert "vhd-parent" not in local.call("VDI.get_sm_config", disk)
    assert store.read(where, 0, 4) == b"kept"


def test_what_is_copied_is_shown_and_kept(sim, local, sr, monkeypatch):
    record = vdi_record(sr, virtual_size=str(8 << 20))
    disk = local.call("VDI.create", record)
    store = sim.world.stores[sr]
    store.write(local.call("VDI.get_location", disk), 0, b"data")
    target = local.call("VDI.create", record)
    seen = []

    def look(call, share):
        record = local.call("VDI.get_record", disk)
        seen.append(sorted(record["current_operations"].values()))
        seen.append(sorted(record["allowed_operations"]))
        seen.append(refusal(local, "VDI.destroy", disk))
        seen.append(refusal(local, "VDI.destroy", target))
        seen.append(refusal(local, "VDI.snapshot", disk)[0])

    with monkeypatch.context() as patch:
        patch.setattr(vdi_class.tasks, "set_progress", look)
        local.call("VDI.copy", disk, sr, NULL, target)
    assert seen == [
        ["copy"],
        ["clone", "copy"],
        ["VDI_IN_USE", disk, "destroy"],
        ["VDI_IN_USE", target, "destroy"],
        "OPERATION_NOT_ALLOWED",
    ]
    assert local.call("VDI.get_current_operations", disk) == {}
    assert local.call("VDI.checksum", disk) == local.call("VDI.checksum", target)


def test_a_cancelled_copy_leaves_nothing(sim, local, sr, monkeypatch):
    disk = local.call("VDI.create", vdi_record(sr))
    store, where = sim.world.stores[sr], local.call("VDI.get_location", disk)
    for number in range(4):
        store.write(where, number << 21, b"data")
    before = sorted(sim.sr_path.iterdir())

    def cancel(call, share):
        local.call("task.cancel", call.task)

    monkeypatch.setattr(vdi_class.tasks, "set_progress", cancel)
    record = local.task("Async.VDI.copy", disk, sr)
    assert record["status"] == "cancelled"
    assert record["error_info"][0] == "TASK_CANCELLED"
    assert sorted(sim.sr_path.iterdir()) == before


def test_a_checksum_can_be_cancelled(local, sr, monkeypatch):
    disk = local.call("VDI.create", vdi_record(sr))

    def cancel(call, share):
        local.call("task.cancel", call.task)

    monkeypatch.setattr(vdi_class.tasks, "set_progress", cancel)
    record = local.task("Async.VDI.checksum", disk)
    assert record["error_info"][0] == "TASK_CANCELLED"
