# SPDX-License-Identifier: Apache-2.0
"""A snapshot and the storage manager's garbage collector: who waits for whom."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time

import pytest

from tests.functional.snapshots import Server, Snapshots, unpacked
from xenapi_driver.sim.storage import coalesce

MIB = 2**20
# A tenth of a second apart; a busy machine must not be taken for an idle collector.
LOOKS = 8


class Collector:
    """The embedded storage manager's, which works when it is let."""

    def __init__(self, monkeypatch) -> None:
        self._next_step = coalesce.next_step
        self._works = threading.Event()
        self._works.set()
        monkeypatch.setattr(coalesce, "next_step", self._step)

    def _step(self, store, fixed):
        return self._next_step(store, fixed) if self._works.is_set() else None

    def rest(self) -> None:
        self._works.clear()

    def work(self) -> None:
        self._works.set()


@pytest.fixture
def collector(monkeypatch):
    return Collector(monkeypatch)


@pytest.fixture
def snapshots(bare_rig, tarball):
    """Servers whose disks are based on nothing that another disk is based on."""
    bare_rig.set_option("cache_images", "none")
    bare_rig.set_option("vhd_coalesce_poll_interval", 0.1)
    bare_rig.set_option("vhd_coalesce_max_attempts", LOOKS)
    bare_rig.set_option("num_retries", 1, "glance")
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    return Snapshots(bare_rig)


@pytest.fixture
def server(snapshots, collector):
    """A server of which the collector has left a base copy that can be merged."""
    made = snapshots.server()
    collector.rest()
    snapshots.take(made)
    made.write(3 * MIB, b"between the snapshots")
    assert len(made.chain) == 2
    return made


@contextlib.contextmanager
def later(seconds: float, do):
    """Do something while the block runs."""
    timer = threading.Timer(seconds, do)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def begin_collecting(server: Server) -> str:
    """Say what the storage manager says when it is about to work on an SR."""
    api = server.rig.host.xenapi
    text = f"Garbage collection for SR {server.rig.sim.default_sr_uuid}"
    return api.task.create("Garbage Collection", text)


def scans(made) -> int:
    return list(made).count("SR.scan")


def test_what_can_be_merged_is_waited_for(snapshots, server, collector):
    rig = snapshots.rig
    with rig.recording() as made, later(0.25, collector.work):
        image = snapshots.take(server)
    depth, content = unpacked(rig, image)
    assert (depth, content) == (2, server.written)
    assert 1 <= scans(made) <= LOOKS
    assert len(made) - scans(made) <= 6, made


def test_a_collector_that_does_nothing_is_a_warning(snapshots, server, caplog):
    rig = snapshots.rig
    with rig.recording() as made, caplog.at_level(logging.WARNING):
        image = snapshots.take(server)
    assert unpacked(rig, image) == (3, server.written)
    assert "does not merge VHD" in caplog.text
    assert scans(made) == LOOKS + 1
    assert len(made) - scans(made) <= 6, made


def test_a_collector_that_says_it_will_is_waited_for(snapshots, server, collector):
    """Longer than one that says nothing: a real one rests for minutes first."""
    rig = snapshots.rig
    task = begin_collecting(server)
    began = time.monotonic()
    with later(1.6, collector.work):
        image = snapshots.take(server)
    assert time.monotonic() - began > 1.6
    assert unpacked(rig, image)[0] == 2
    rig.host.xenapi.task.destroy(task)


def test_progress_elsewhere_in_the_sr_counts(snapshots, server, collector):
    """The collector does one merge after the other: ours may be the last."""
    rig = snapshots.rig
    other = snapshots.server()
    rig.host.xenapi.VDI.snapshot(
        rig.host.xenapi.VDI.get_by_uuid(other.disk["uuid"]), {}
    )
    rig.driver.home.session.events.barrier()
    stop = threading.Event()

    def merge_elsewhere():
        base = rig.host.xenapi.VDI.get_by_uuid(other.chain[1])
        for number in range(8):
            # As the storage manager does while it moves a base copy's children.
            rig.host.xenapi.VDI.add_to_sm_config(base, f"relinking-{number}", "true")
            stop.wait(0.2)
        collector.work()

    thread = threading.Thread(target=merge_elsewhere)
    thread.start()
    try:
        image = snapshots.take(server)
    finally:
        stop.set()
        thread.join()
    assert unpacked(rig, image) == (2, server.written)


@pytest.mark.parametrize("key", ["gc", "coalesce"])
def test_a_collector_that_is_switched_off_is_not_waited_for(snapshots, server, key):
    rig = snapshots.rig
    sr = rig.host.xenapi.SR.get_by_uuid(rig.sim.default_sr_uuid)
    rig.host.xenapi.SR.add_to_other_config(sr, key, "false")
    rig.driver.home.session.events.barrier()
    with rig.recording() as made:
        image = snapshots.take(server)
    assert unpacked(rig, image) == (3, server.written)
    assert scans(made) == 0


def test_a_chain_that_is_merged_while_it_is_read_is_read_anew(
    snapshots, server, collector, caplog
):
    """The collector begins when it was given up, in the middle of the upload."""
    rig = snapshots.rig
    server.write(8 * MIB, random.Random(0).randbytes(5 * MIB))
    rig.images.slow, before = 0.01, rig.images.puts()

    def merge_while_it_uploads():
        while rig.images.puts() == before:
            time.sleep(0.01)
        collector.work()
        rig.host.xenapi.SR.scan(
            rig.host.xenapi.SR.get_by_uuid(rig.sim.default_sr_uuid)
        )

    with later(0, merge_while_it_uploads), caplog.at_level(logging.INFO):
        image = snapshots.take(server)
    assert "Storing the snapshot again" in caplog.text
    assert unpacked(rig, image)[1] == server.written
    assert rig.sim.settle_storage()
    assert server.read_back == server.written


def test_a_chain_that_xapi_does_not_know_is_looked_for(snapshots):
    rig = snapshots.rig
    server = snapshots.server()
    server.write(MIB, b"x")
    api = rig.host.xenapi
    disk = api.VDI.get_by_uuid(server.disk["uuid"])
    api.VDI.snapshot(disk, {})
    base = api.VDI.get_by_uuid(server.chain[1])
    api.VDI.forget(base)
    rig.driver.home.session.events.barrier()
    image = snapshots.take(server)
    assert unpacked(rig, image)[1] == server.written


def test_snapshots_do_not_make_the_chain_grow(snapshots):
    server = snapshots.server()
    depths = []
    for number in range(5):
        server.write(number * MIB, b"%d" % number * 100)
        image = snapshots.take(server)
        depths.append(unpacked(snapshots.rig, image)[0])
        assert snapshots.rig.sim.settle_storage()
    assert max(depths) <= 2
    assert len(server.chain) == 1
    assert server.read_back == server.written
