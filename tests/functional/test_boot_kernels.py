# SPDX-License-Identifier: Apache-2.0
"""Servers with a kernel of their own (AMI, AKI, ARI): what dom0 keeps, and how long."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time

import pytest
from nova import exception as nova_exception

from tests import breaking, builders
from tests.dom0 import kernels
from tests.functional import snapshots
from tests.functional.test_spawn import READER, SYSTEM_PYTHON

SECTOR = 512
FOLDER = "var/lib/xcp/guest"
KERNEL = random.Random(1).randbytes(2 * builders.MIB + 17)
RAMDISK = random.Random(2).randbytes(300_001)
SYSTEM = random.Random(3).randbytes(builders.MIB + 100)
# A link for each of the two files, one request that removes both.
# What only such servers call.
CALLS = "plugin|VDI.(create|destroy)|import"
SPAWN_CACHED_ONE_VIF = 10 + 2
DESTROY_ONE_VIF = 4 + 1


@pytest.fixture(autouse=True)
def needs_loops():
    kernels.require_loops()


@pytest.fixture
def ami(bare_rig):
    """A rig that is up, with an image that needs a kernel and a ramdisk."""
    bare_rig.start()
    offer(bare_rig)
    return bare_rig


def offer(rig):
    for name, data, kind in (
        ("kernel_id", KERNEL, "aki"),
        ("ramdisk_id", RAMDISK, "ari"),
        ("image_id", SYSTEM, "ami"),
    ):
        kinds = {"disk_format": kind, "container_format": kind}
        setattr(rig, name, rig.add_image(data, **kinds))


def server(rig, **changes):
    parts = {"kernel_id": rig.kernel_id, "ramdisk_id": rig.ramdisk_id}
    return builders.instance(rig.image_id, **{**parts, **changes})


def dom0(rig, path=FOLDER):
    return rig.sim.world.dom0.root / path.lstrip("/")


def kept(rig):
    return sorted(os.listdir(dom0(rig)))


def vm_of(rig, instance):
    (vm,) = rig.host.records("VM", name_label=instance.name)
    return vm


def root_disk(rig, instance):
    """Return a file with the root disk's content, read by libvhdi."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import pyvhdi"]).returncode:
        pytest.skip("missing: python3-libvhdi")
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm_of(rig, instance)["VBDs"])
    leaf = rig.sim.sr_path / f"{rig.host.record('VDI', vbd['VDI'])['uuid']}.vhd"
    raw = rig.folder / "read-back.raw"
    subprocess.run([SYSTEM_PYTHON, str(READER), str(leaf), str(raw)], check=True)
    return raw


def test_a_server_boots_its_own_kernel(ami):
    instance = server(ami)
    ami.spawn(instance)
    vm = vm_of(ami, instance)
    assert vm["power_state"] == "Running"
    assert vm["domain_type"] in ("pv", "pvh")
    assert (vm["PV_args"], vm["PV_bootloader"]) == ("root=/dev/xvda1", "")
    assert dom0(ami, vm["PV_kernel"]).read_bytes() == KERNEL
    assert dom0(ami, vm["PV_ramdisk"]).read_bytes() == RAMDISK
    names = [os.path.basename(vm[field]) for field in ("PV_kernel", "PV_ramdisk")]
    assert kept(ami) == sorted([*names, ami.kernel_id, ami.ramdisk_id])
    # Nothing of the way there is left: the root disk and its image are all.
    assert len(ami.host.records("VDI", name_label="")) == 0

    ami.destroy(instance)
    assert kept(ami) == sorted([ami.kernel_id, ami.ramdisk_id])


def test_the_image_is_the_partition_of_the_root_disk(ami):
    instance = server(ami)
    ami.spawn(instance)
    raw = root_disk(ami, instance)
    told = subprocess.run(
        ["sfdisk", "-d", str(raw)], capture_output=True, text=True, check=True
    ).stdout
    sectors = -(-len(SYSTEM) // SECTOR)
    assert "label: dos" in told
    (line,) = [line for line in told.splitlines() if line.startswith(str(raw))]
    about = [word.replace(" ", "") for word in line.partition(":")[2].split(",")]
    assert about == ["start=63", f"size={sectors}", "type=83"]
    with open(raw, "rb") as disk:
        disk.seek(63 * SECTOR)
        assert disk.read(len(SYSTEM)) == SYSTEM
        assert not disk.read(builders.MIB).strip(b"\0")


def test_the_scheduler_is_told_of_all_three_formats(ami):
    told = ami.driver.capabilities
    assert all(told[f"supports_image_type_{kind}"] for kind in ("ami", "aki", "ari"))


def test_the_second_server_needs_no_download(ami):
    first, second = server(ami), server(ami)
    ami.spawn(first)
    served = ami.images.served
    with ami.recording() as made:
        ami.spawn(second, active=False)
    assert ami.images.served == served
    assert len(made) <= SPAWN_CACHED_ONE_VIF, made
    paths = {vm_of(ami, one)["PV_kernel"] for one in (first, second)}
    assert len(paths) == 2
    with ami.recording() as made:
        ami.destroy(second)
    assert len(made) <= DESTROY_ONE_VIF, made
    assert dom0(ami, vm_of(ami, first)["PV_kernel"]).read_bytes() == KERNEL


def test_builds_at_once_fetch_each_file_once(ami):
    servers = [server(ami) for _ in range(3)]
    threads = [threading.Thread(target=ami.spawn, args=(one,)) for one in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ami.driver.list_instance_uuids()) == 3
    assert ami.images.served == 3, "kernel, ramdisk and root disk once each"
    assert len(kept(ami)) == 2 * 3 + 2


def test_without_a_cache_dom0_keeps_what_servers_use(bare_rig):
    bare_rig.set_option("cache_images", "none")
    bare_rig.start()
    offer(bare_rig)
    before = bare_rig.sim.inventory()
    instance = server(bare_rig)
    bare_rig.spawn(instance)
    assert len(kept(bare_rig)) == 2
    bare_rig.destroy(instance)
    assert kept(bare_rig) == []
    assert bare_rig.sim.inventory() == before


def test_a_kernel_alone_and_its_own_command_line(ami):
    instance = server(ami, ramdisk_id=None)
    meta = builders.image_meta(os_command_line="root=/dev/xvda ro")
    ami.spawn(instance, image_meta=meta)
    vm = vm_of(ami, instance)
    assert (vm["PV_ramdisk"], vm["PV_args"]) == ("", "root=/dev/xvda ro")
    ami.destroy(instance)
    assert kept(ami) == [ami.kernel_id]


def test_without_a_kernel_the_boot_loader_seeks_one_in_the_partition(ami):
    instance = server(ami, kernel_id=None, ramdisk_id=None)
    ami.spawn(instance)
    vm = vm_of(ami, instance)
    assert vm["domain_type"] in ("pv", "pvh")
    assert (vm["PV_bootloader"], vm["PV_kernel"], vm["PV_args"]) == ("pygrub", "", "")
    assert kept(ami) == []


def test_a_snapshot_of_it_boots_the_same_kernel(ami):
    parts = {"kernel_id": ami.kernel_id, "ramdisk_id": ami.ramdisk_id}
    some = snapshots.Snapshots(ami)
    image = some.take(some.server(**parts))
    instance = builders.instance(image.identity, root_gb=0, **parts)
    ami.spawn(instance)
    assert dom0(ami, vm_of(ami, instance)["PV_kernel"]).read_bytes() == KERNEL
    with open(root_disk(ami, instance), "rb") as disk:
        disk.seek(63 * SECTOR)
        assert disk.read(len(SYSTEM)) == SYSTEM


def test_a_kernel_of_an_operators_is_not_removed(ami):
    instance = server(ami)
    ami.spawn(instance)
    vm = vm_of(ami, instance)
    dom0(ami, f"{FOLDER}/vmlinuz").write_bytes(KERNEL)
    ref = ami.host.xenapi.VM.get_by_uuid(vm["uuid"])
    ami.host.xenapi.VM.set_PV_kernel(ref, f"/{FOLDER}/vmlinuz")
    ami.driver.home.session.events.doubt()
    ami.destroy(instance)
    assert "vmlinuz" in kept(ami)


def test_kernels_that_nobody_uses_go(ami):
    used, gone = server(ami), server(ami)
    ami.spawn(used)
    ami.spawn(gone)
    # Somebody removed the VM behind Nova's back.
    ami.host.call("VM.hard_shutdown", vm_of(ami, gone)["uuid"])
    ami.host.destroy("VM", vm_of(ami, gone)["uuid"])
    for name in kept(ami):
        os.utime(dom0(ami, f"{FOLDER}/{name}"), (time.time() - 90_000,) * 2)
    (dom0(ami) / "vmlinuz").write_bytes(b"an operator's")
    ami.driver.manage_image_cache(ami.context, [])
    paths = [vm_of(ami, used)[field] for field in ("PV_kernel", "PV_ramdisk")]
    assert kept(ami) == sorted(["vmlinuz", *map(os.path.basename, paths)])
    ami.spawn(server(ami))
    assert len(kept(ami)) == 7


# refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 17 * builders.MIB}, "max_kernel_ramdisk_size"),
        ({"size": 0}, "empty"),
        ({"disk_format": "qcow2"}, "it must be aki"),
    ],
)
def test_what_is_no_kernel_is_refused(ami, changes, words):
    before = ami.sim.inventory()
    ami.records[ami.kernel_id].update(changes)
    with pytest.raises(nova_exception.NovaException, match=words):
        ami.spawn(server(ami))
    check_nothing_new(ami, before)


def test_a_ramdisk_without_a_kernel_is_refused(ami):
    with pytest.raises(nova_exception.NovaException, match="kernel_id"):
        ami.spawn(server(ami, kernel_id=None))
    assert ami.images.served == 0


def test_a_damaged_kernel_fails_the_build(ami):
    before = ami.sim.inventory()
    ami.records[ami.kernel_id]["size"] = len(KERNEL) + 1
    with pytest.raises(nova_exception.NovaException):
        ami.spawn(server(ami))
    check_nothing_new(ami, before)


def check_nothing_new(rig, before):
    """The image's root disk may be cached by now, and that is all."""
    assert kept(rig) == []
    for entry in rig.host.records("VDI", name_label=f"Glance Image {rig.image_id}"):
        rig.host.destroy("VDI", entry["uuid"])
    after = rig.sim.inventory()
    assert {**after, "files": before["files"]} == before


# trouble


def test_a_killed_copy_is_made_again(ami):
    """The plugin dies while the disk is plugged into dom0."""
    killed = []

    def kill():
        for _attempt in range(2000):
            for process in list(ami.sim.world.dom0._running):
                if not killed and b"copy_vdi" in b"".join(
                    part.encode() for part in process.args if isinstance(part, str)
                ):
                    plugged = kernels_plugged(ami)
                    if plugged:
                        os.killpg(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    instance = server(ami)
    ami.spawn(instance)
    killer.join()
    assert killed, "nothing was killed"
    assert dom0(ami, vm_of(ami, instance)["PV_kernel"]).read_bytes() == KERNEL
    assert kernels_plugged(ami) == []
    assert ami.host.records("VDI", name_label="") == []
    assert len(kept(ami)) == 4


def kernels_plugged(rig):
    """Return the drives of dom0 that the plugin made."""
    db = rig.sim.world.db
    with db.changed:
        return [
            row for _ref, row in db.rows("VBD")
            if "xenapi-dom0-plugin" in row["other_config"]
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["refused", "cut after"])
def test_whatever_call_breaks_kept_files_stay(bare_rig, tarball, name):
    """Without a cache: ``test_every_transfer.py``."""
    trouble = breaking.TROUBLES[name]
    bare_rig.start()
    offer(bare_rig)
    # A disk of another kind, so that all that is seen is the kernel's.
    bare_rig.image_id = bare_rig.add_image(tarball)
    parts = {"kernel_id": bare_rig.kernel_id, "ramdisk_id": bare_rig.ramdisk_id}
    building = breaking.spawning(bare_rig, instance=parts)
    broken = []
    for one in breaking.break_calls(bare_rig, building, name, trouble, CALLS):
        assert one.after == one.before, one
        broken.append(one.method)
    assert len(broken) >= 2, broken


def test_whatever_call_breaks_a_removal_leaves_no_file(ami):
    parts = {"kernel_id": ami.kernel_id, "ramdisk_id": ami.ramdisk_id}
    removing = breaking.destroying(ami, instance=parts)
    for name in ("refused", "cut after"):
        trouble = breaking.TROUBLES[name]
        for one in breaking.break_calls(ami, removing, name, trouble, "plugin"):
            assert one.after == one.before, one
