# SPDX-License-Identifier: Apache-2.0
"""Base copies that are merged, and chains that survive a kill at any moment."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from tests.sim import vhd_judges
from tests.sim.clients import XmlClient, vdi_record
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.storage import coalesce, sr_recovery, vhd, vhd_store
from xenapi_driver.sim.storage.vhd_chain import Chain

MIB = 1 << 20
SIZE = 8 * MIB


def free(name):
    return False


@pytest.fixture
def store(tmp_path):
    return vhd_store.SrStore(tmp_path / "sr", 1 << 30)


def made(store, data=b"data"):
    name = str(uuid.uuid4())
    store.create(name, SIZE)
    store.write(name, 3 * MIB, data)
    return name


def clone(store, source):
    leaf, parent = str(uuid.uuid4()), str(uuid.uuid4())
    store.clone(source, leaf, parent)
    return leaf, parent


def tidy(store, fixed=free):
    steps = []
    while step := coalesce.next_step(store, fixed):
        assert coalesce.carry_out(store, step, fixed)
        steps.append(step)
    return [step.kind for step in steps]


def digest(store, name):
    return hashlib.sha256(store.read(name, 0, SIZE)).hexdigest()


def test_a_base_with_two_leaves_stays(store):
    source = made(store)
    clone(store, source)
    assert coalesce.next_step(store, free) is None


def test_a_lonely_leaf_takes_its_parents_place(store):
    source = made(store)
    leaf, base = clone(store, source)
    store.write(source, 0, b"mine")
    store.write(source, 3 * MIB + 1, b"A")
    before = digest(store, source)
    store.destroy(leaf)
    assert tidy(store) == ["leaf"]
    info = store.scan()[source]
    assert (set(store.scan()), info.parent, info.hidden) == ({source}, None, False)
    assert digest(store, source) == before
    assert vhd_judges.libvhdi_digest(store.path_of(source)) == before
    store.write(source, 5 * MIB, b"still a disk")


def test_a_base_is_merged_into_its_parent(store):
    source = made(store, b"one")
    first, lower = clone(store, source)
    store.write(source, 5 * MIB, b"two" * 3000)
    second, upper = clone(store, source)
    store.write(source, 0, b"three")
    store.write(second, MIB, b"four")
    before = digest(store, source), digest(store, second)
    store.destroy(first)
    assert tidy(store) == ["merge"]
    tree = store.scan()
    assert set(tree) == {source, second, lower}
    assert tree[source].parent == tree[second].parent == lower
    assert (digest(store, source), digest(store, second)) == before
    paths = store.path_of(source), store.path_of(lower)
    assert vhd_judges.libvhdi_digest(*paths) == before[0]


def test_a_grown_leaf_makes_its_parent_grow(store):
    source = made(store)
    leaf, _base = clone(store, source)
    store.resize(source, 2 * SIZE)
    store.write(source, 2 * SIZE - 3, b"end")
    store.destroy(leaf)
    assert tidy(store) == ["leaf"]
    assert store.virtual_size(source) == 2 * SIZE
    assert store.read(source, 2 * SIZE - 4, 4) == b"\0end"
    assert store.read(source, 3 * MIB, 5) == b"data\0"


def test_a_clone_in_the_middle_is_noticed(store, monkeypatch):
    source = made(store)
    leaf, base = clone(store, source)
    store.write(source, 0, b"mine")
    store.destroy(leaf)
    merge = coalesce._merge

    def clone_meanwhile(*arguments):
        merge(*arguments)
        monkeypatch.setattr(coalesce, "_merge", merge)
        clone(store, source)

    monkeypatch.setattr(coalesce, "_merge", clone_meanwhile)
    before = digest(store, source)
    step = coalesce.next_step(store, free)
    assert coalesce.carry_out(store, step, free) is False
    assert base in store.scan()
    assert digest(store, source) == before


def test_a_write_in_the_same_tick_of_the_clock_is_kept(store, monkeypatch):
    """The guest writes into the leaf while it is merged, and its time stays."""
    source = made(store)
    leaf, _base = clone(store, source)
    store.write(source, 0, b"mine")
    store.destroy(leaf)
    merge = coalesce._merge

    def write_meanwhile(*arguments):
        merge(*arguments)
        monkeypatch.setattr(coalesce, "_merge", merge)
        about = store.path_of(source).stat()
        store.write(source, 0, b"late")
        os.utime(store.path_of(source), ns=(about.st_atime_ns, about.st_mtime_ns))

    monkeypatch.setattr(coalesce, "_merge", write_meanwhile)
    assert tidy(store) == ["leaf"]
    assert store.read(source, 0, 4) == b"late"


def fixed_disk(store, content):
    """Put a fixed disk on an SR, as images may have it, and return its uuid."""
    name = str(uuid.uuid4())
    footer = vhd.Footer(len(content), vhd.FIXED, uuid.uuid4())
    store.path_of(name).write_bytes(content + footer.pack())
    return name


def test_a_fixed_disk_is_a_base_like_others(store):
    content = b"fixed" + bytes(SIZE - 5)
    source = fixed_disk(store, content)
    leaf, base = clone(store, source)
    assert store.scan()[base].hidden is True
    store.write(source, SIZE - 4, b"leaf")
    expected = hashlib.sha256(content[:-4] + b"leaf").hexdigest()
    assert digest(store, source) == expected
    paths = store.path_of(source), store.path_of(base)
    assert vhd_judges.libvhdi_digest(*paths) == expected
    store.destroy(leaf)
    assert tidy(store) == ["leaf"]
    assert digest(store, source) == expected
    assert vhd_judges.libvhdi_digest(store.path_of(source)) == expected
    with vhd.VhdFile(store.path_of(source)) as file:
        assert file.footer.kind == vhd.FIXED


def test_a_fixed_base_that_is_too_small_stays(store):
    source = fixed_disk(store, bytes(SIZE))
    leaf, base = clone(store, source)
    store.resize(source, 2 * SIZE)
    store.write(source, 2 * SIZE - 4, b"leaf")
    store.destroy(leaf)
    step = coalesce.next_step(store, free)
    assert coalesce.carry_out(store, step, free) is False
    assert set(store.scan()) == {source, base}
    assert store.read(source, 2 * SIZE - 4, 4) == b"leaf"


def test_nothing_is_merged_where_there_is_no_room(store):
    source = made(store)
    leaf, base = clone(store, source)
    store.write(source, 0, b"mine")
    store.destroy(leaf)
    store.size_bytes = store.used_bytes()
    step = coalesce.next_step(store, free)
    assert coalesce.carry_out(store, step, free) is False
    assert set(store.scan()) == {source, base}
    assert store.read(source, 0, 4) == b"mine"


def test_a_leaf_that_is_held_stays(store):
    source = made(store)
    leaf, base = clone(store, source)
    store.destroy(leaf)
    assert tidy(store, lambda name: name == source) == []
    assert store.scan()[source].parent == base


def test_a_broken_file_stops_the_collector(store):
    source = made(store)
    leaf, _base = clone(store, source)
    store.destroy(leaf)
    store.path_of(str(uuid.uuid4())).write_bytes(b"rubbish")
    with pytest.raises(vhd_store.Broken):
        coalesce.next_step(store, free)


def test_what_a_reader_has_opened_does_not_change(store):
    source = made(store)
    leaf, _base = clone(store, source)
    store.write(source, 0, b"mine")
    before = digest(store, source)
    store.destroy(leaf)
    with store.open(source) as chain:
        tidy(store)
        assert hashlib.sha256(chain.read(0, SIZE)).hexdigest() == before


# through the API


@pytest.mark.parametrize("late", [b"", b"late"])
def test_a_clone_made_meanwhile_keeps_its_parent(store, monkeypatch, late):
    """The leaf is cloned while it is merged, before the parent takes its place."""
    source = made(store)
    snapshot, _ = clone(store, source)
    store.destroy(snapshot)
    if late:
        store.write(source, 0, late)
    before, clones, merge = digest(store, source), [], coalesce._merge

    def merge_and_clone(*step):
        merge(*step)
        if not clones:
            clones.append(clone(store, source)[0])

    monkeypatch.setattr(coalesce, "_merge", merge_and_clone)
    step = coalesce.next_step(store, free)
    assert step.kind == "leaf"
    coalesce.carry_out(store, step, free)
    assert {source, clones[0]} <= set(store.scan())
    assert [digest(store, name) for name in (source, clones[0])] == [before, before]
    tidy(store)
    assert [digest(store, name) for name in (source, clones[0])] == [before, before]


def vhd_parent(client, ref):
    return client.call("VDI.get_sm_config", ref).get("vhd-parent")


def test_a_destroyed_snapshot_is_coalesced_in_the_background(sim, client):
    sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
    disk = client.call("VDI.create", vdi_record(sr))
    store = sim.world.stores[sr]
    where = client.call("VDI.get_location", disk)
    store.write(where, 0, b"first")
    snapshot = client.call("VDI.snapshot", disk)
    assert vhd_parent(client, disk) == vhd_parent(client, snapshot) is not None
    store.write(where, 4 * MIB, b"second")
    client.call("VDI.destroy", snapshot)
    assert sim.settle_storage(20)
    assert vhd_parent(client, disk) is None
    assert client.call("SR.get_VDIs", sr) == [disk]
    assert store.read(where, 0, 5) + store.read(where, 4 * MIB, 6) == b"firstsecond"


def test_the_parent_of_older_snapshots_is_kept_true(sim, local, sr):
    disk = local.call("VDI.create", vdi_record(sr))
    store = sim.world.stores[sr]
    where = local.call("VDI.get_location", disk)
    store.write(where, 0, b"0")
    old = local.call("VDI.snapshot", disk)
    original = vhd_parent(local, disk)
    store.write(where, 1, b"1")
    new = local.call("VDI.snapshot", disk)
    assert vhd_parent(local, disk) != original
    store.write(where, 2, b"2")
    local.call("VDI.destroy", new)
    assert sim.settle_storage(20)
    # The leaf stands where it stood before the second snapshot.
    assert vhd_parent(local, disk) == original == vhd_parent(local, old)
    assert store.read(where, 0, 3) == b"012"
    old_place = local.call("VDI.get_location", old)
    assert store.read(old_place, 0, 3) == b"0\0\0"


def test_a_disk_can_be_kept_from_the_collector(sim, local, sr):
    disk = local.call("VDI.create", vdi_record(sr))
    local.call("VDI.add_to_other_config", disk, "leaf-coalesce", "false")
    snapshot = local.call("VDI.snapshot", disk)
    base = vhd_parent(local, disk)
    local.call("VDI.destroy", snapshot)
    assert sim.settle_storage(20)
    assert vhd_parent(local, disk) == base
    local.call("VDI.remove_from_other_config", disk, "leaf-coalesce")
    local.call("SR.scan", sr)
    assert sim.settle_storage(20)
    assert vhd_parent(local, disk) is None


# after a kill


_WORK = """
import sys, uuid
from pathlib import Path
from xenapi_driver.sim.storage import coalesce, vhd_store
store, anchor = vhd_store.SrStore(Path(sys.argv[1]), 1 << 30), sys.argv[2]
free = lambda name: False
print("ready", flush=True)
number = 0
while True:
    number += 1
    leaf, parent = str(uuid.uuid4()), str(uuid.uuid4())
    store.clone(anchor, leaf, parent)
    store.write(anchor, number % 7 << 20, b"data")
    store.write(leaf, 0, b"leaf" * 600000)
    store.resize(leaf, 16 << 20)
    second = str(uuid.uuid4())
    store.clone(leaf, second, str(uuid.uuid4()))
    store.copy(leaf, str(uuid.uuid4()))
    for name, info in store.scan().items():
        if name != anchor and not info.hidden:
            store.destroy(name)
            while step := coalesce.next_step(store, free):
                coalesce.carry_out(store, step, free)
"""


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_leaves_every_disk_whole(tmp_path, store, moment):
    anchor = made(store)
    work = subprocess.Popen(
        [sys.executable, "-c", _WORK, str(store.path), anchor],
        stdout=subprocess.PIPE,
    )
    with work:
        assert work.stdout.readline() == b"ready\n"
        time.sleep(0.03 + 0.037 * moment)
        os.kill(work.pid, signal.SIGKILL)
    again = vhd_store.SrStore(store.path, 1 << 30)
    assert anchor in again.scan()
    assert again.read(anchor, 3 * MIB, 4) == b"data"
    assert {path.suffix for path in store.path.iterdir()} == {".vhd"}
    for name in again.scan():
        with again.open(name) as chain:
            chain.read(0, chain.virtual_size)
    tidy(again)


def test_a_snapshot_that_was_begun_is_finished_or_undone(store):
    source = made(store)
    base = store.path_of(str(uuid.uuid4()))
    leaf = store.path_of(source).with_suffix(".snapshot")
    vhd.create(leaf, SIZE, store.path_of(source), parent_name=base.name)
    sr_recovery.recover(store.path)
    assert set(store.scan()) == {source}
    assert not leaf.exists()
    vhd.create(leaf, SIZE, store.path_of(source), parent_name=base.name)
    base.hardlink_to(store.path_of(source))
    sr_recovery.recover(store.path)
    tree = store.scan()
    assert (tree[source].parent, tree[base.stem].hidden) == (base.stem, True)
    assert store.read(source, 3 * MIB, 5) == b"data\0"


def test_a_relink_that_was_begun_is_finished(store):
    source = made(store)
    leaf, base = clone(store, source)
    other = store.path_of(str(uuid.uuid4()))
    other.write_bytes(store.path_of(base).read_bytes())
    journal = store.path_of(leaf).with_suffix(".relink")
    journal.write_text(other.name)
    # As a write that stopped between the header and the locators leaves it.
    raw = bytearray(store.path_of(leaf).read_bytes())
    at = raw.index(f"file://./{base}".encode())
    raw[at + 9 : at + 9 + 8] = other.stem[:8].encode()
    store.path_of(leaf).write_bytes(raw)
    with pytest.raises(vhd.BadVhd):
        Chain(store.path_of(leaf))
    sr_recovery.recover(store.path)
    assert store.scan()[leaf].parent == other.stem
    assert store.read(leaf, 3 * MIB, 4) == b"data"
    assert not journal.exists()


def test_a_restarted_host_has_the_disks_it_had(tmp_path):
    sim = Simulator(tmp_path)
    client = XmlClient(sim.handle)
    sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
    client.call("VDI.create", vdi_record(sr))
    path = sim.sr_path
    (path / f"{uuid.uuid4()}.copying").write_bytes(b"half a copy")
    sim.close()
    again = vhd_store.SrStore(path, 1 << 30)
    assert len(again.scan()) == 1
    assert len(list(path.iterdir())) == 1
