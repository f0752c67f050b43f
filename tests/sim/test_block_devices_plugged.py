# SPDX-License-Identifier: Apache-2.0
"""Disks plugged into the compute VM are block devices of this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sim import drives
from tests.sim.clients import XmlClient, refusal
from tests.sim.drives import MIB, Drives, loops
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.storage import block_devices


@pytest.fixture
def needs_loops(tmp_path):
    yield from drives.with_loops(tmp_path)


@pytest.fixture
def devices(tmp_path):
    """The folder in which the disks appear, as in /dev."""
    return tmp_path / "dev"


@pytest.fixture
def showing(tmp_path, devices):
    """A simulated host that shows plugged disks as block devices."""
    behaviour = Behaviour(block_device_dir=devices)
    simulator = Simulator(tmp_path / "state", behaviour=behaviour)
    yield simulator
    simulator.close()


def of_compute_vm(sim):
    """The calls that plug disks into the VM of nova-compute."""
    vm = XmlClient(sim.handle).call("VM.get_by_uuid", sim.compute_vm_uuid)
    return Drives(sim, vm)


@pytest.fixture
def host(needs_loops, showing):
    """The host, with loop devices to show disks; it is closed before they count."""
    return of_compute_vm(showing)


def link_of(host, devices, vbd):
    return devices / host.call("VBD.get_device", vbd)


def plugged(host, devices):
    """Return a new disk, its drive, and where the machine shows it."""
    vdi = host.disk()
    vbd = host.plug(vdi)
    return vdi, vbd, link_of(host, devices, vbd)


def test_what_is_written_to_the_device_is_on_the_disk(host, devices):
    vdi, vbd, link = plugged(host, devices)
    assert link.is_block_device() and link.name.startswith("xvd")
    with open(link, "r+b") as device:
        assert device.read(7) == b"before\0"
        device.seek(5 * MIB + 3)
        device.write(b"after")
    host.call("VBD.unplug", vbd)
    assert not os.path.lexists(link)
    assert not host.attached(vbd)
    assert host.read(vdi, 5 * MIB + 2, 7) == b"\0after\0"
    assert host.read(vdi, 0, 6) == b"before"
    assert host.sim.world.dom0.scratch_files() == []
    host.call("VBD.plug", vbd)
    with open(link, "rb") as device:
        device.seek(5 * MIB + 3)
        assert device.read(5) == b"after"
    host.call("VBD.unplug", vbd)
    host.call("VBD.destroy", vbd)
    host.call("VDI.destroy", vdi)


def test_two_disks_are_two_devices(host, devices):
    first, second = host.plug(host.disk()), host.plug(host.disk())
    names = {link_of(host, devices, vbd).name for vbd in (first, second)}
    assert {path.name for path in devices.iterdir()} == names
    assert len(names) == 2
    host.call("VBD.unplug", first)
    assert link_of(host, devices, second).is_block_device()


def test_a_read_only_drive_cannot_be_written(host, devices):
    # HVM guests take no read-only disks while they run.
    host.call("VM.hard_shutdown", host.vm)
    host.call("VM.set_domain_type", host.vm, "pvh")
    host.call("VM.set_PV_bootloader", host.vm, "pygrub")
    host.call("VM.start", host.vm, False, False)
    vbd = host.plug(host.disk(), mode="RO")
    link = link_of(host, devices, vbd)
    assert link.read_bytes()[:6] == b"before"
    with pytest.raises(OSError), open(link, "r+b") as device:
        device.write(b"x" * 4096)
    host.call("VBD.unplug", vbd)


def test_an_open_device_is_not_let_go_and_stays_usable(host, devices):
    vdi, vbd, link = plugged(host, devices)
    with open(link, "r+b", buffering=0) as device:
        error = refusal(host, "VBD.unplug", vbd)
        assert error[0] == "DEVICE_DETACH_REJECTED"
        assert error[1:3] == ["VBD", vbd]
        assert str(link) in error[3]
        assert host.attached(vbd)
        device.write(b"later!" + bytes(4096 - 6))
    assert link.read_bytes()[:6] == b"later!", "the device went with its last user"
    host.call("VBD.unplug", vbd)
    assert host.read(vdi, 0, 6) == b"later!"


def test_a_mounted_device_is_not_let_go_before_it_is_unmounted(host, devices, tmp_path):
    _vdi, vbd, link = plugged(host, devices)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("missing: mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(link)], check=True)
    point = tmp_path / "mnt"
    point.mkdir()
    if subprocess.run(["mount", str(link), str(point)]).returncode:
        pytest.skip("missing: the right to mount")
    try:
        error = refusal(host, "VBD.unplug", vbd)
        assert error[0] == "DEVICE_DETACH_REJECTED"
        (point / "file").write_text("text")
    finally:
        subprocess.run(["umount", str(point)], check=True)
    host.call("VBD.unplug", vbd)
    assert not host.attached(vbd)


def test_force_takes_an_open_device_away(host, devices):
    vdi, vbd, link = plugged(host, devices)
    with open(link, "r+b", buffering=0) as device:
        device.write(b"forced" + bytes(4096 - 6))
        host.call("VBD.unplug_force", vbd)
        assert not os.path.lexists(link)
    assert not host.attached(vbd)
    assert host.read(vdi, 0, 6) == b"forced"


def test_a_loop_device_that_somebody_took_away_is_no_obstacle(host, devices):
    vdi, vbd, link = plugged(host, devices)
    with open(link, "r+b") as device:
        device.write(b"abrupt")
    subprocess.run(["losetup", "-d", str(link.resolve())], check=True)
    host.call("VBD.unplug", vbd)
    assert not os.path.lexists(link)
    assert host.read(vdi, 0, 6) == b"abrupt"


def test_a_snapshot_has_what_was_written_so_far(host, devices):
    vdi, vbd, link = plugged(host, devices)
    with open(link, "r+b") as device:
        device.write(b"first!")
    snapshot = host.call("VDI.snapshot", vdi, {})
    with open(link, "r+b") as device:
        device.write(b"second")
    host.call("VBD.unplug", vbd)
    assert host.read(snapshot, 0, 6) == b"first!"
    assert host.read(vdi, 0, 6) == b"second"


def test_changes_that_cannot_be_kept_are_told_and_the_device_goes(host, devices):
    vdi, vbd, link = plugged(host, devices)
    host.store.path_of(host.call("VDI.get_uuid", vdi)).write_bytes(b"rubbish")
    error = refusal(host, "VBD.unplug", vbd)
    assert error[0] == "SR_BACKEND_FAILURE_46"
    assert "lost" in error[2]
    assert not host.attached(vbd)
    assert not os.path.lexists(link)


def test_a_name_that_is_taken_on_this_machine_is_left_alone(host, devices):
    devices.mkdir()
    vdi = host.disk()
    vbd = host.drive(vdi, userdevice="7")
    taken = devices / "xvdh"
    taken.write_text("of somebody else")
    error = refusal(host, "VBD.plug", vbd)
    assert error[0] == "SR_BACKEND_FAILURE_46"
    assert f"{taken} exists already" in error[2]
    assert not host.attached(vbd)
    assert taken.read_text() == "of somebody else"


def test_a_folder_that_cannot_hold_the_link_leaves_no_loop_device(
    host, devices, tmp_path
):
    devices.write_text("not a folder")
    error = refusal(host, "VBD.plug", host.drive(host.disk()))
    assert error[0] == "SR_BACKEND_FAILURE_46"
    assert loops(tmp_path) == []
    assert host.sim.world.dom0.scratch_files() == []


def test_closing_the_host_takes_away_what_is_left(host, showing, devices, tmp_path):
    idle, busy = host.plug(host.disk()), host.plug(host.disk())
    links = [link_of(host, devices, vbd) for vbd in (idle, busy)]
    with open(links[1], "rb"):
        assert len(loops(tmp_path)) == 2
        showing.close()
        assert list(devices.iterdir()) == []
    assert loops(tmp_path) == []
    error = refusal(host, "VBD.plug", host.drive(host.disk()))
    assert "shut down" in error[2]


def test_a_compute_vm_that_stops_loses_its_devices(host, devices):
    vdi, vbd, link = plugged(host, devices)
    with open(link, "r+b") as device:
        device.write(b"halted")
    host.call("VM.hard_shutdown", host.vm)
    assert not os.path.lexists(link)
    assert not host.attached(vbd)
    assert host.read(vdi, 0, 6) == b"halted"


def refuse_rights(patch):
    patch.setattr(block_devices.os, "geteuid", lambda: 1000)
    return "need root"


def refuse_loops(patch):
    patch.setattr(block_devices.os, "geteuid", lambda: 0)
    patch.setattr(block_devices.os.path, "exists", lambda path: False)
    return "no loop devices"


def refuse_losetup(patch):
    def fail(*arguments):
        raise block_devices.NoBlockDevices("losetup failed: Permission denied")

    patch.setattr(block_devices, "_require_loops", lambda: None)
    patch.setattr(block_devices, "_losetup", fail)
    return "Permission denied"


@pytest.mark.parametrize("refuse", [refuse_rights, refuse_loops, refuse_losetup])
def test_without_the_rights_the_error_says_so(showing, devices, refuse):
    host = of_compute_vm(showing)
    vbd = host.drive(host.disk())
    with pytest.MonkeyPatch.context() as patch:
        reason = refuse(patch)
        error = refusal(host, "VBD.plug", vbd)
    assert error[0] == "SR_BACKEND_FAILURE_46"
    assert "The VDI is not available" in error[2]
    assert reason in error[2]
    assert not host.attached(vbd)
    assert not os.path.lexists(devices)
    assert showing.world.dom0.scratch_files() == []


def test_a_host_that_shows_no_devices_plugs_all_the_same(sim):
    host = of_compute_vm(sim)
    vbd = host.plug(host.disk())
    assert host.attached(vbd)
    assert not Path("/dev", host.call("VBD.get_device", vbd)).exists()
    host.call("VBD.unplug", vbd)
    assert not host.attached(vbd)


# The process goes and another one goes on: see the option ``keep``


@pytest.fixture
def restart(tmp_path, devices, needs_loops):
    """Start hosts that keep their state, one after the other."""
    running = []

    def restart():
        while running:
            running.pop().close()
        behaviour = Behaviour(block_device_dir=devices)
        running.append(Simulator(tmp_path / "kept", behaviour=behaviour, keep=True))
        return of_compute_vm(running[0])

    yield restart
    while running:
        running.pop().close()


def kill(host):
    """Leave everything as a killed process does: its files, loops and links."""
    host.sim._keeper.close()
    host.sim.world.dom0._blocks._attached.clear()


def test_a_plugged_disk_is_shown_again_after_a_restart(restart, devices):
    host = restart()
    vdi = host.disk()
    vbd = host.plug(vdi)
    with open(link_of(host, devices, vbd), "r+b") as device:
        device.write(b"first!")
    host = restart()
    assert host.attached(vbd)
    with open(link_of(host, devices, vbd), "r+b") as device:
        assert device.read(6) == b"first!"
        device.write(b" second")
    host.call("VBD.unplug", vbd)
    assert host.read(vdi, 0, 13) == b"first! second"


def test_a_device_with_its_user_is_taken_over_after_a_kill(restart, devices):
    host = restart()
    vdi = host.disk()
    vbd = host.plug(vdi)
    with open(link_of(host, devices, vbd), "r+b", buffering=0) as device:
        device.write(b"before the kill")
        kill(host)
        host = restart()
        device.write(b", and after it")
        assert refusal(host, "VBD.unplug", vbd)[0] == "DEVICE_DETACH_REJECTED"
    host.call("VBD.unplug", vbd)
    assert host.read(vdi, 0, 29) == b"before the kill, and after it"


def test_what_a_lost_device_held_reaches_the_disk(restart, devices, tmp_path):
    """As after a kill and a restart of the machine."""
    host = restart()
    vdi = host.disk()
    vbd = host.plug(vdi)
    with open(link_of(host, devices, vbd), "r+b", buffering=0) as device:
        device.write(b"before the kill")
        os.fsync(device.fileno())
    kill(host)
    for line in loops(tmp_path):
        subprocess.run(["losetup", "-d", line.partition(":")[0]], check=True)
    host = restart()
    with open(link_of(host, devices, vbd), "rb") as device:
        assert device.read(15) == b"before the kill"


def test_devices_of_nobody_are_removed_at_the_start(restart, devices, tmp_path):
    host = restart()
    vbd = host.plug(host.disk())
    host.sim.world.db.update("VBD", vbd, currently_attached=False)
    kill(host)
    assert loops(tmp_path)
    restart()
    assert not loops(tmp_path)
    assert not list(tmp_path.glob("kept/dom0/run/blocks/*"))
    assert not list(devices.iterdir())
