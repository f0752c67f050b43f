# SPDX-License-Identifier: Apache-2.0
"""Where a plugged disk is a real block device: the compute VM, and each dom0.

A disk of the compute VM shows on this machine where ``Behaviour.block_device_dir``
says. One that is plugged into a control domain shows in that dom0's scratch root, by
the name that the storage manager gives it: ``dev/sm/backend/<SR uuid>/<VDI uuid>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xenapi_driver.sim.dom0 import Dom0
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.storage import block_devices, disks
from xenapi_driver.sim.storage.block_devices import DeviceBusy, NoBlockDevices
from xenapi_driver.sim.storage.vhd_store import SrStore
from xenapi_driver.sim.world import World

BACKEND = "sm/backend"


@dataclass(frozen=True)
class _Place:
    dom0: Dom0
    name: str  # of the link, and of the device among those of the dom0
    links: Path


def device_of(world: World, row: Row, guest_name: str) -> str:
    """Return the name of a plugged drive's device, as field ``device`` has it.

    :param guest_name: what a guest calls it
    """
    if row["empty"] or not world.db.row("VM", row["VM"])["is_control_domain"]:
        return guest_name
    vdi = world.db.row("VDI", row["VDI"])
    sr = world.db.row("SR", vdi["SR"])["uuid"]
    return f"{BACKEND}/{sr}/{vdi['uuid']}"


def _place(world: World, row: Row, device: str) -> _Place | None:
    """Return where a drive shows; None: nowhere, as far as this machine can."""
    if row["empty"] or not device:
        return None
    if row["VM"] == world.compute_vm:
        links = world.behaviour.block_device_dir
        return None if links is None else _Place(world.dom0, device, links)
    vm = world.db.row("VM", row["VM"])
    if not vm["is_control_domain"] or not block_devices.available():
        return None
    if not isinstance(world.stores.get(_sr(world, row)), SrStore):
        return None
    dom0 = world.dom0_of(vm["resident_on"])
    node = dom0.root / "dev" / device
    return _Place(dom0, node.name, node.parent)


def _sr(world: World, row: Row) -> str:
    return str(world.db.row("VDI", row["VDI"])["SR"])


def _file(world: World, row: Row) -> Path:
    vdi = world.db.row("VDI", row["VDI"])
    return disks.store_of(world, vdi["SR"]).path_of(vdi["location"])


def show(world: World, row: Row, device: str) -> None:
    """Make a drive's disk a block device, where it is to be one.

    :raises Failure: SR_BACKEND_FAILURE_46, as when an SR cannot attach a disk
    """
    place = _place(world, row, device)
    # A second drive of the same disk shares the device: both only read.
    if place is None or _sharing(world, row):
        return
    with disks.backend_errors():
        place.dom0.attach_block(
            _file(world, row), place.name, place.links, row["mode"] == "RO"
        )


def _sharing(world: World, row: Row) -> bool:
    """Return whether another drive of the same domain has the same disk plugged."""
    if not world.db.row("VM", row["VM"])["is_control_domain"]:
        return False
    others = world.db.row("VDI", row["VDI"])["VBDs"]
    return any(
        other["uuid"] != row["uuid"]
        and other["VM"] == row["VM"]
        and other["currently_attached"]
        for other in (world.db.row("VBD", ref) for ref in others)
    )


def hide(world: World, ref: str, force: bool) -> None:
    """Take the block device away, if there is one; its writes reach the disk.

    :param force: also while somebody uses it
    :raises Failure: DEVICE_DETACH_REJECTED, and nothing has changed;
        SR_BACKEND_FAILURE_46, the device is gone and what was written is lost
    """
    row = world.db.row("VBD", ref)
    place = _place(world, row, row["device"])
    if place is None or not place.dom0.has_block(place.name) or _sharing(world, row):
        return
    try:
        with disks.backend_errors():
            _detach(place, ref, force)
    finally:
        gone = not place.dom0.has_block(place.name)
        world.db.update("VBD", ref, currently_attached=not gone)


def _detach(place: _Place, ref: str, force: bool) -> None:
    try:
        place.dom0.detach_block(place.name, force)
    except DeviceBusy as error:
        code = "DEVICE_DETACH_REJECTED"
        raise Failure(code, "VBD", ref, str(error)) from error


def is_shown(world: World, ref: str) -> bool:
    """Return whether a drive's disk is a block device now."""
    row = world.db.row("VBD", ref)
    place = _place(world, row, row["device"])
    return place is not None and place.dom0.has_block(place.name)


def sync(world: World, disk: Path) -> None:
    """Bring a disk's file up to date with what was written through its device."""
    for dom0 in _dom0s(world):
        dom0.sync_block(disk)


def _dom0s(world: World) -> list[Dom0]:
    return list(
        {id(dom0): dom0 for dom0 in (world.dom0, *world.dom0s.values())}.values()
    )


def take_up(world: World) -> None:
    """Show the disks again after a restart of the simulation.

    One that cannot be shown is unplugged, as after a crash of its storage.
    """
    db = world.db
    owners = [vm for vm, row in db.rows("VM") if row["is_control_domain"]]
    if db.exists("VM", world.compute_vm):
        owners.append(world.compute_vm)
    for owner in owners:
        for ref in db.row("VM", owner)["VBDs"]:
            row = db.row("VBD", ref)
            place = _place(world, row, row["device"])
            plugged = row["currently_attached"] and row["type"] != "CD"
            if place is None or not plugged or place.dom0.has_block(place.name):
                continue
            read_only = row["mode"] == "RO"
            try:
                place.dom0.take_up_block(
                    _file(world, row), place.name, place.links, read_only
                )
            except NoBlockDevices:
                db.update("VBD", ref, currently_attached=False)
    for dom0 in _dom0s(world):
        dom0.clear_blocks(world.behaviour.block_device_dir)
        for link in dom0.root.glob(f"dev/{BACKEND}/*/*"):
            if link.is_symlink() and not dom0.has_block(link.name):
                link.unlink()
