# SPDX-License-Identifier: Apache-2.0
"""A disk that is plugged into a control domain is a block device of that dom0."""

import os

import pytest

from tests.sim import drives
from tests.sim.clients import XmlClient, refusal
from tests.sim.drives import MIB, Drives, loops
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.storage import block_devices


@pytest.fixture
def needs_loops(tmp_path):
    yield from drives.with_loops(tmp_path)


class Host(Drives):
    """One host of a pool, into whose control domain disks are plugged."""

    def __init__(self, sim, number=0):
        self.host = sim.machines.all[number].host
        local = XmlClient(sim.handle)
        super().__init__(sim, local.call("host.get_control_domain", self.host))
        self.root = sim.world.dom0_of(self.host).root

    def node(self, vbd):
        """Return the path of a plugged disk's device."""
        return self.root / "dev" / self.call("VBD.get_device", vbd)


@pytest.fixture
def host(tmp_path, needs_loops):
    simulator = Simulator(tmp_path / "state")
    yield Host(simulator)
    simulator.close()


def test_it_shows_by_the_storage_managers_name_and_keeps_what_is_written(host):
    vdi = host.disk()
    vbd = host.plug(vdi)
    sr, uuid = host.sim.default_sr_uuid, host.call("VDI.get_uuid", vdi)
    assert host.call("VBD.get_device", vbd) == f"sm/backend/{sr}/{uuid}"
    node = host.node(vbd)
    assert node.is_block_device()
    with open(node, "r+b") as device:
        assert device.read(6) == b"before"
        device.seek(3 * MIB)
        device.write(b"after")
    host.call("VBD.unplug", vbd)
    assert not os.path.lexists(node)
    assert host.read(vdi, 3 * MIB, 5) == b"after"
    host.call("VBD.destroy", vbd)
    assert host.sim.world.dom0.scratch_files() == []


def test_a_read_only_drive_cannot_be_written(host):
    vbd = host.plug(host.disk(), mode="RO")
    assert host.node(vbd).read_bytes()[:6] == b"before"
    with pytest.raises(OSError), open(host.node(vbd), "r+b") as device:
        device.write(b"x" * 4096)
    host.call("VBD.unplug", vbd)


def test_an_open_device_is_not_let_go(host):
    vbd = host.plug(host.disk())
    with open(host.node(vbd), "rb"):
        assert refusal(host, "VBD.unplug", vbd)[0] == "DEVICE_DETACH_REJECTED"
        assert host.call("VBD.get_currently_attached", vbd)
    host.call("VBD.unplug", vbd)


def test_two_reading_drives_of_a_disk_share_its_device(host):
    vdi = host.disk()
    first, second = host.plug(vdi, mode="RO"), host.plug(vdi, mode="RO")
    assert host.node(first) == host.node(second)
    host.call("VBD.unplug", first)
    assert host.node(second).read_bytes()[:6] == b"before"
    host.call("VBD.unplug", second)
    assert not os.path.lexists(host.node(second))


def test_it_shows_in_the_dom0_of_its_own_host(tmp_path, needs_loops):
    simulator = Simulator(tmp_path / "state", hosts=2)
    try:
        host = Host(simulator, number=1)
        assert host.root != simulator.world.dom0.root
        # A disk that this host reaches: its local SR.
        host.sr = host.call("host.get_suspend_image_sr", host.host)
        host.store = simulator.world.stores[host.sr]
        vdi = host.disk()
        vbd = host.plug(vdi)
        assert host.node(vbd).is_block_device()
        assert simulator.world.dom0.scratch_files() == []
        with open(host.node(vbd), "r+b") as device:
            device.write(b"second")
        snapshot = host.call("VDI.snapshot", vdi, {})
        assert host.read(snapshot, 0, 6) == b"second"
        host.call("VBD.unplug", vbd)
    finally:
        simulator.close()


def test_closing_the_host_takes_the_device_away(host, tmp_path):
    host.plug(host.disk())
    assert len(loops(tmp_path)) == 1
    host.sim.close()
    assert loops(tmp_path) == []


@pytest.mark.parametrize("killed", [False, True])
def test_it_is_there_again_after_a_restart(tmp_path, needs_loops, killed):
    simulator = Simulator(tmp_path / "kept", keep=True)
    host = Host(simulator)
    vdi = host.disk()
    vbd = host.plug(vdi)
    with open(host.node(vbd), "r+b", buffering=0) as device:
        device.write(b"first!")
    if killed:
        simulator._keeper.close()
        simulator.world.dom0._blocks._attached.clear()
    else:
        simulator.close()
    simulator = Simulator(tmp_path / "kept", keep=True)
    try:
        host = Host(simulator)
        assert host.node(vbd).read_bytes()[:6] == b"first!"
        host.call("VBD.unplug", vbd)
        assert not os.path.lexists(host.node(vbd))
        assert host.read(vdi, 0, 6) == b"first!"
    finally:
        simulator.close()


def test_devices_of_nobody_are_removed_at_the_start(tmp_path, needs_loops):
    simulator = Simulator(tmp_path / "kept", keep=True)
    host = Host(simulator)
    vbd = host.plug(host.disk())
    node = host.node(vbd)
    simulator.world.db.update("VBD", vbd, currently_attached=False)
    simulator._keeper.close()
    simulator.world.dom0._blocks._attached.clear()
    assert loops(tmp_path)
    simulator = Simulator(tmp_path / "kept", keep=True)
    try:
        assert loops(tmp_path) == []
        assert not os.path.lexists(node)
    finally:
        simulator.close()


def test_without_the_rights_it_is_plugged_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(block_devices.os, "geteuid", lambda: 1000)
    simulator = Simulator(tmp_path / "state")
    try:
        host = Host(simulator)
        vbd = host.plug(host.disk())
        assert host.call("VBD.get_currently_attached", vbd)
        assert not os.path.lexists(host.node(vbd))
        host.call("VBD.unplug", vbd)
    finally:
        simulator.close()


def test_each_dom0_is_told_on_which_host_it_runs(tmp_path):
    simulator = Simulator(tmp_path / "state", hosts=2)
    try:
        for number in range(2):
            host = Host(simulator, number)
            text = (host.root / "etc/xensource-inventory").read_text()
            told = dict(line.split("=", 1) for line in text.splitlines())
            uuid = host.call("host.get_uuid", host.host)
            assert told["INSTALLATION_UUID"] == f"'{uuid}'"
            vm = host.call("VM.get_uuid", host.vm)
            assert told["CONTROL_DOMAIN_UUID"] == f"'{vm}'"
            assert host.sim.world.dom0_of(host.host).scratch_files() == []
    finally:
        simulator.close()
