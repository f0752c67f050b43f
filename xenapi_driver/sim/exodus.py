# SPDX-License-Identifier: Apache-2.0
"""A VM leaves for another pool, or a copy of it does: records and disk content."""

from dataclasses import dataclass, replace

from xenapi_driver.sim import disks, guests
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World

# What belongs to a life on a host or in a pool and does not travel.
_STAYS = (
    "affinity",
    "allowed_operations",
    "appliance",
    "attached_PCIs",
    "blobs",
    "consoles",
    "children",
    "crash_dumps",
    "current_operations",
    "domid",
    "groups",
    "guest_metrics",
    "metrics",
    "parent",
    "power_state",
    "protection_policy",
    "resident_on",
    "scheduled_to_be_resident_on",
    "snapshot_of",
    "snapshot_schedule",
    "snapshots",
    "suspend_SR",
    "suspend_VDI",
    "VBDs",
    "VGPUs",
    "VIFs",
    "VTPMs",
    "VUSBs",
)
# What the copy of a disk has of the disk.
_OF_DISK = (
    "name_label",
    "name_description",
    "type",
    "virtual_size",
    "sharable",
    "read_only",
    "other_config",
    "xenstore_data",
    "tags",
)


@dataclass(frozen=True)
class Way:
    """Where a VM goes.

    :ivar world: the pool there; it may be this one
    :ivar host: the host there
    :ivar disks: VDI here to SR there
    :ivar networks: VIF here to network there
    :ivar copy: the VM stays here as well; the other one is a new VM
    """

    world: World
    host: str
    disks: dict[str, str]
    networks: dict[str, str]
    copy: bool = False


def disks_of(db: Registry, row: Row) -> list[str]:
    """Return the VDIs of a VM's disks, CDs left out."""
    found = []
    for vbd in row["VBDs"]:
        drive = db.row("VBD", vbd)
        if drive["type"] == "Disk" and drive["VDI"] != NULL:
            found.append(drive["VDI"])
    return found


def take_place(db: Registry, old: str, new: str) -> None:
    """Let the drives of one VDI use another, which gets its name and description."""
    row = db.row("VDI", old)
    kept = ("name_label", "name_description", "other_config", "tags", "type")
    db.update("VDI", new, **{name: row[name] for name in kept})
    for vbd in list(row["VBDs"]):
        db.update("VBD", vbd, VDI=new)


def send(call: Call, vm: str, way: Way) -> str:
    """Make the VM in the other pool, start it there if it runs; drop it here."""
    here, there = call.world, way.world
    with here.db.changed:
        row = dict(here.db.row("VM", vm))
    moved: dict[str, str] = {}
    new = ""
    try:
        for old, sr in way.disks.items():
            moved[old] = send_disk(call, old, there, sr)
        with there.db.changed:
            new = _create(call, row, way)
            _create_devices(call, row, way, (new, moved))
            if row["power_state"] == "Running":
                guests.start(there, new, way.host, False)
    except BaseException:
        remove(replace(call, world=there), new, list(moved.values()))
        raise
    if not way.copy:
        _leave(call, vm, list(moved))
    return new


def send_disk(call: Call, old: str, there: World, sr: str) -> str:
    """Make a disk with the same content on an SR of a pool; plugged or not."""
    with call.db.changed:
        row = dict(call.db.row("VDI", old))
        source = disks.store_of(call.world, row["SR"])
    target = disks.store_of(there, sr, "VDI_CREATE")
    uuid = there.db.new_uuid()
    where = target.location(uuid)
    with disks.backend_errors():
        disks.stage_copy(source, row["location"], target, where)
    try:
        # Together, or a scan in between makes a second VDI of the new file.
        with there.db.changed:
            call.check_cancelled()
            with disks.backend_errors():
                target.publish(where)
            fields = {name: row[name] for name in _OF_DISK}
            fields.update(uuid=uuid, location=where, SR=sr, managed=True)
            new = there.db.create("VDI", fields)
            disks.scan(there, sr)
            return new
    finally:
        target.discard(where)


def _create(call: Call, row: Row, way: Way) -> str:
    """Make the VM's record in the other pool."""
    there = way.world
    fields = {name: value for name, value in row.items() if name not in _STAYS}
    if way.copy:
        fields.pop("uuid")
    elif there is not call.world and there.db.find("VM", uuid=row["uuid"]):
        raise Failure("DUPLICATE_VM", row["uuid"])
    metrics = there.db.create("VM_metrics", {})
    values = {"metrics": metrics, "power_state": "Halted", "domid": -1}
    return there.db.create("VM", {**fields, **values, "affinity": way.host})


def _create_devices(
    call: Call, row: Row, way: Way, made: tuple[str, dict[str, str]]
) -> None:
    """Make drives and interfaces; references mean nothing in another pool."""
    new, moved = made
    there = way.world
    for vbd in row["VBDs"]:
        drive = dict(call.db.row("VBD", vbd))
        for name in ("uuid", "allowed_operations", "current_operations", "metrics"):
            drive.pop(name)
        known = drive["VDI"] in moved
        drive.update(VM=new, VDI=moved.get(drive["VDI"], NULL), empty=not known)
        drive.update(currently_attached=False)
        there.db.create("VBD", drive)
    for vif in row["VIFs"]:
        card = dict(call.db.row("VIF", vif))
        for name in ("uuid", "allowed_operations", "current_operations"):
            card.pop(name)
        card.update(VM=new, currently_attached=False)
        card["network"] = way.networks.get(vif, card["network"])
        there.db.create("VIF", card)


def _leave(call: Call, vm: str, gone: list[str]) -> None:
    """Take the VM and its disks out of this pool."""
    with call.db.changed:
        if call.db.row("VM", vm)["power_state"] != "Halted":
            guests.stop(call.world, vm)
        call.db.update("VM", vm, is_a_template=False, blocked_operations={})
        remove(call, vm, gone)


def remove(call: Call, vm: str, vdis: list[str]) -> None:
    """Destroy a halted VM, if there is one, and disks."""
    with call.db.changed:
        if vm:
            HANDLERS["VM.destroy"].function(call, vm)
        for vdi in vdis:
            HANDLERS["VDI.destroy"].function(call, vdi)
