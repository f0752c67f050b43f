# SPDX-License-Identifier: Apache-2.0
"""A VM leaves for another pool, or a copy of it does: records and disk content."""

from dataclasses import dataclass, replace

from xenapi_driver.sim import tasks
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disks, shown_disks
from xenapi_driver.sim.vms import guests
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


def all_disks(db: Registry, vm: str, snapshots: bool) -> list[str]:
    """Return what moves with a VM: its disks, its snapshots', and its memory's."""
    found: dict[str, None] = {}
    for ref in [vm, *(db.row("VM", vm)["snapshots"] if snapshots else [])]:
        row = db.row("VM", ref)
        found.update(dict.fromkeys(disks_of(db, row)))
        if db.exists("VDI", row["suspend_VDI"]):
            found[row["suspend_VDI"]] = None
    return list(found)


def take_place(db: Registry, moved: dict[str, str]) -> None:
    """Let everything that uses the old disks use the new ones."""
    _relate(db, db, moved)
    for old, new in moved.items():
        row = db.row("VDI", old)
        for vbd in list(row["VBDs"]):
            db.update("VBD", vbd, VDI=new)
        for snapshot in list(row["snapshots"]):
            if snapshot not in moved:
                db.update("VDI", snapshot, snapshot_of=new)
        for vm in db.find("VM", suspend_VDI=old):
            db.update("VM", vm, suspend_VDI=new)


def _relate(source: Registry, target: Registry, moved: dict[str, str]) -> None:
    """Write down of which disks the copies of snapshots are snapshots."""
    for old, new in moved.items():
        row = source.row("VDI", old)
        if not row["is_a_snapshot"]:
            continue
        of = row["snapshot_of"]
        kept = of if source is target else NULL
        target.update(
            "VDI",
            new,
            is_a_snapshot=True,
            snapshot_time=row["snapshot_time"],
            snapshot_of=moved.get(of, kept),
        )


def send(call: Call, vm: str, way: Way) -> str:
    """Make the VM in the other pool, let it go on there; drop it here.

    Its snapshots go along, unless it is only copied.
    """
    here, there = call.world, way.world
    with here.db.changed:
        row = dict(here.db.row("VM", vm))
        family = [vm, *([] if way.copy else row["snapshots"])]
        rows = {ref: dict(here.db.row("VM", ref)) for ref in family}
    moved: dict[str, str] = {}
    made: dict[str, str] = {}
    try:
        for old, sr in way.disks.items():
            moved[old] = send_disk(call, old, there, sr)
            tasks.set_progress(call, 0.1 + 0.8 * len(moved) / len(way.disks))
        with there.db.changed:
            _relate(here.db, there.db, moved)
            for ref, one in rows.items():
                made[ref] = _create(call, one, way, (made.get(vm, ""), moved))
                _create_devices(call, one, way, (made[ref], moved))
            if row["power_state"] == "Running":
                guests.resume(there, made[vm], way.host, False)
    except BaseException:
        elsewhere = replace(call, world=there)
        remove(elsewhere, list(made.values()), list(moved.values()))
        raise
    if not way.copy:
        _leave(call, family, list(moved))
    return made[vm]


def send_disk(call: Call, old: str, there: World, sr: str) -> str:
    """Make a disk with the same content on an SR of a pool; plugged or not."""
    with call.db.changed:
        row = dict(call.db.row("VDI", old))
        source = disks.store_of(call.world, row["SR"])
    target = disks.store_of(there, sr, "VDI_CREATE")
    uuid = there.db.new_uuid()
    where = target.location(uuid)
    with disks.backend_errors():
        shown_disks.sync(call.world, source.path_of(row["location"]))
        disks.stage_copy(source, row["location"], target, where)
    try:
        # Together, or a scan in between makes a second VDI of the new file.
        with there.db.changed:
            call.check_cancelled()
            with disks.backend_errors():
                there.before_making(target.path_of(where))
                target.publish(where)
            fields = {name: row[name] for name in _OF_DISK}
            fields.update(uuid=uuid, location=where, SR=sr, managed=True)
            new = there.db.create("VDI", fields)
            disks.note(there, sr, where)
            return new
    finally:
        target.discard(where)


def _create(call: Call, row: Row, way: Way, made: tuple[str, dict[str, str]]) -> str:
    """Make a VM's record in the other pool; ``made`` holds its origin and disks."""
    there = way.world
    origin, moved = made
    fields = {name: value for name, value in row.items() if name not in _STAYS}
    if way.copy:
        fields.pop("uuid")
    elif there is not call.world and there.db.find("VM", uuid=row["uuid"]):
        raise Failure("DUPLICATE_VM", row["uuid"])
    fields.update(power_state="Halted", domid=-1, affinity=way.host)
    if row["power_state"] == "Suspended":
        fields.update(power_state="Suspended", suspend_VDI=moved[row["suspend_VDI"]])
    if row["is_a_snapshot"]:
        fields.update(snapshot_of=origin, affinity=NULL)
    metrics = there.db.create("VM_metrics", {})
    return there.db.create("VM", {**fields, "metrics": metrics})


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
        kept = row["power_state"] == "Suspended" and drive["currently_attached"]
        drive.update(currently_attached=kept)
        there.db.create("VBD", drive)
    for vif in row["VIFs"]:
        card = dict(call.db.row("VIF", vif))
        for name in ("uuid", "allowed_operations", "current_operations"):
            card.pop(name)
        kept = row["power_state"] == "Suspended" and card["currently_attached"]
        card.update(VM=new, currently_attached=kept)
        card["network"] = way.networks.get(vif, card["network"])
        there.db.create("VIF", card)


def _leave(call: Call, vms: list[str], gone: list[str]) -> None:
    """Take the VM, its snapshots and all their disks out of this pool."""
    with call.db.changed:
        for vm in vms:
            if call.db.row("VM", vm)["power_state"] in ("Running", "Paused"):
                guests.stop(call.world, vm)
            free: Row = {"blocked_operations": {}, "current_operations": {}}
            call.db.update("VM", vm, is_a_template=False, **free)
        remove(call, vms, gone)


def remove(call: Call, vms: list[str], vdis: list[str]) -> None:
    """Destroy VMs that do not run, and disks."""
    db = call.db
    with db.changed:
        for vm in vms:
            db.update("VM", vm, power_state="Halted", suspend_VDI=NULL)
            for vbd in db.row("VM", vm)["VBDs"]:
                db.update("VBD", vbd, currently_attached=False)
            HANDLERS["VM.destroy"].function(call, vm)
        for vdi in vdis:
            HANDLERS["VDI.destroy"].function(call, vdi)
