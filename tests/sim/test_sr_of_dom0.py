# SPDX-License-Identifier: Apache-2.0
"""Disks that a real dom0's tool made, on an SR of the simulated host."""

import gzip
import hashlib
import uuid
from pathlib import Path

import pytest

from tests.sim import vhd_judges
from tests.sim.clients import Refused, vdi_record
from tests.sim.test_vhd_of_dom0 import BASE, DATA, LEAF, MID
from tests.sim.transfers import Carrier
from xenapi_driver.sim.storage import disks, vhd

MIB = 1 << 20
SIZE = 64 * MIB
ZEROS = hashlib.sha256(bytes(SIZE)).hexdigest()


def unpacked(name: str) -> bytes:
    return gzip.decompress((DATA / f"{name}.vhd.gz").read_bytes())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def carrier(sim, local):
    return Carrier(sim.serve(), local.session)


@pytest.fixture
def chain(sim, local, sr):
    """base, mid and leaf as an SR keeps them: named by uuids, the parents hidden."""
    paths: list[Path] = []
    for name in ("base", "mid", "leaf"):
        path = sim.sr_path / f"{uuid.uuid4()}.vhd"
        path.write_bytes(unpacked(name))
        if paths:
            vhd.relink(path, paths[-1])
            with vhd.VhdFile(paths[-1], writable=True) as parent:
                parent.hide()
        paths.append(path)
    # Not by a scan, which would have the collector begin.
    disks.scan(sim.world, sr)
    return [local.call("VDI.get_by_uuid", path.stem) for path in paths]


@pytest.fixture
def settled(sim, local, sr, chain):
    """The same with twins beside mid and leaf, so that the collector leaves them."""
    for ref in chain[:2]:
        parent = sim.sr_path / f"{local.call('VDI.get_uuid', ref)}.vhd"
        vhd.create(parent.with_name(f"{uuid.uuid4()}.vhd"), SIZE, parent)
    local.call("SR.scan", sr)
    return chain


def test_a_chain_is_found_with_its_parents(sim, local, carrier, settled):
    chain = settled
    assert sim.settle_storage()
    base, mid, leaf = (local.call("VDI.get_record", ref) for ref in chain)
    assert leaf["sm_config"]["vhd-parent"] == mid["uuid"]
    assert mid["sm_config"]["vhd-parent"] == base["uuid"]
    assert [one["managed"] for one in (base, mid, leaf)] == [False, False, True]
    for ref, expected in zip(chain, (BASE, MID, LEAF), strict=True):
        assert digest(carrier.get("/export_raw_vdi", vdi=ref)) == expected
    older = carrier.get("/export_raw_vdi", vdi=chain[2], base=chain[1], format="vhd")
    assert len(older) < len(carrier.get("/export_raw_vdi", vdi=chain[2], format="vhd"))


def test_the_collector_makes_one_disk_of_a_chain(sim, local, carrier, sr, chain):
    """Each parent has one child: the leaf takes their place, with what it read as."""
    local.call("SR.scan", sr)
    assert sim.settle_storage()
    (disk,) = sim.sr_path.glob("*.vhd")
    assert disk.stem == local.call("VDI.get_uuid", chain[2])
    assert digest(carrier.get("/export_raw_vdi", vdi=chain[2])) == LEAF
    assert vhd_judges.libvhdi_digest(disk) == LEAF


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("base", SIZE, BASE),
        ("hidden", SIZE, ZEROS),
        ("base-resized-128m", 2 * SIZE, BASE),
    ],
)
def test_a_disk_comes_in_over_http(local, carrier, sr, name, size, expected):
    disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(size)))
    record = carrier.put(
        "/import_raw_vdi", unpacked(name), local, vdi=disk, format="vhd"
    )
    assert record["status"] == "success"
    content = carrier.get("/export_raw_vdi", vdi=disk)
    assert (len(content), digest(content[:SIZE])) == (size, expected)


@pytest.mark.parametrize("name", ["bad-footer-checksum", "bad-bat", "on-raw"])
def test_a_broken_disk_fails_the_scan_and_nothing_else(sim, local, sr, name):
    good = local.call("VDI.create", vdi_record(sr))
    path = sim.sr_path / f"{uuid.uuid4()}.vhd"
    path.write_bytes(unpacked(name))
    with pytest.raises(Refused) as caught:
        local.call("SR.scan", sr)
    assert caught.value.code == "SR_BACKEND_FAILURE_40"
    assert path.stem in str(caught.value)
    # What is not broken can still be used.
    local.call("VDI.destroy", local.call("VDI.clone", good))
    path.unlink()
    local.call("SR.scan", sr)
