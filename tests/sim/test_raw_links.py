# SPDX-License-Identifier: Apache-2.0
"""Raw files on an SR of VHDs: disks of their own, and parents of VHDs."""

import hashlib
import uuid

import pytest

from tests.sim.clients import refusal, vdi_record
from xenapi_driver.sim.storage import coalesce, vhd, vhd_store

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.mark.parametrize("key", ["type", "image-format"])
def test_a_raw_disk_is_a_plain_file(sim, local, sr, key):
    record = vdi_record(sr, virtual_size=str(SIZE), sm_config={key: "raw"})
    disk = local.call("VDI.create", record)
    place = local.call("VDI.get_location", disk)
    path = sim.sr_path / f"{place}.raw"
    assert path.stat().st_size == SIZE
    store = sim.world.stores[sr]
    store.write(place, 3 * MIB + 1, b"payload")
    assert path.read_bytes()[3 * MIB + 1 :][:7] == b"payload"
    assert path.stat().st_size == SIZE
    local.call("VDI.update", disk)
    assert 0 < int(local.call("VDI.get_physical_utilisation", disk)) < MIB
    assert local.call("VDI.get_sm_config", disk)["vdi_type"] == "aio"
    copy = local.call("VDI.copy", disk, sr)
    assert (sim.sr_path / f"{local.call('VDI.get_uuid', copy)}.vhd").exists()
    assert local.call("VDI.checksum", copy) == local.call("VDI.checksum", disk)
    local.call("VDI.destroy", disk)
    assert not path.exists()


def test_a_raw_disk_has_no_snapshots_and_never_grows(sim, local, sr):
    record = vdi_record(sr, virtual_size=str(SIZE), sm_config={"type": "raw"})
    disk = local.call("VDI.create", record)
    before = sorted(sim.sr_path.iterdir())
    for method, *params in (
        ("VDI.snapshot",),
        ("VDI.clone",),
        ("VDI.resize", str(2 * SIZE)),
    ):
        assert refusal(local, method, disk, *params)[0] == "SR_BACKEND_FAILURE_38"
    assert sorted(sim.sr_path.iterdir()) == before


def test_a_copy_into_a_raw_disk_stays_raw(sim, local, sr):
    disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
    store = sim.world.stores[sr]
    store.write(local.call("VDI.get_location", disk), MIB, b"payload")
    record = vdi_record(sr, virtual_size=str(2 * SIZE), sm_config={"type": "raw"})
    raw = local.call("VDI.create", record)
    local.call("VDI.copy", disk, sr, "OpaqueRef:NULL", raw)
    path = sim.sr_path / f"{local.call('VDI.get_uuid', raw)}.raw"
    expected = bytes(MIB) + b"payload"
    assert path.read_bytes() == expected.ljust(2 * SIZE, b"\0")
    assert local.call("VDI.get_virtual_size", raw) == str(2 * SIZE)


def on_raw(path, parent):
    """Make a VHD on a raw parent, as dom0's own tool writes it."""
    flat = path.with_suffix(".flat")
    vhd.create(flat, SIZE)
    vhd.create(path, SIZE, flat, parent_name=parent.name)
    flat.unlink()


def test_a_vhd_is_read_through_its_raw_parent(sim, local, sr):
    base, leaf = (str(uuid.uuid4()) for _ in range(2))
    content = bytes(MIB) + b"base" * 1000 + bytes(SIZE - MIB - 4000)
    (sim.sr_path / f"{base}.raw").write_bytes(content)
    on_raw(sim.sr_path / f"{leaf}.vhd", sim.sr_path / f"{base}.raw")
    local.call("SR.scan", sr)
    disk = local.call("VDI.get_by_uuid", leaf)
    parent = local.call("VDI.get_by_uuid", base)
    assert local.call("VDI.get_sm_config", disk)["vhd-parent"] == base
    assert local.call("VDI.get_managed", parent) is False
    store = sim.world.stores[sr]
    store.write(leaf, MIB + 4, b"leaf")
    found = store.read(leaf, 0, SIZE)
    assert found == content[: MIB + 4] + b"leaf" + content[MIB + 8 :]
    assert hashlib.md5(found).hexdigest() == local.call("VDI.checksum", disk)
    assert (sim.sr_path / f"{base}.raw").read_bytes() == content
    twin = local.call("VDI.snapshot", disk)
    assert local.call("VDI.checksum", twin) == local.call("VDI.checksum", disk)


def test_nothing_is_merged_into_a_raw_parent(tmp_path):
    store = vhd_store.SrStore(tmp_path, 1 << 30)
    base, leaf = (str(uuid.uuid4()) for _ in range(2))
    (tmp_path / f"{base}.raw").write_bytes(b"base" + bytes(SIZE - 4))
    on_raw(tmp_path / f"{leaf}.vhd", tmp_path / f"{base}.raw")
    assert coalesce.next_step(store, lambda uuid: False) is None
    store.destroy(leaf)
    assert store.scan()[base].hidden is False  # a disk again
