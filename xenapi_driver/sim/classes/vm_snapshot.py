# SPDX-License-Identifier: Apache-2.0
"""Class VM: snapshots and checkpoints, and the way back to them."""

from xenapi_driver.sim.classes import vdi, vm_power
from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disks
from xenapi_driver.sim.vms import guests, history, operations, vm_copies, vm_metadata
from xenapi_driver.sim.world import now

# What a revert brings back beyond what a snapshot's own record holds.
_NAMES = ("name_label", "name_description")
# Fields of a VM that a revert leaves as they are.
_NOT_REVERTED = {
    "uuid",
    "name_label",
    "is_a_template",
    "other_config",
    "suspend_VDI",
    "affinity",
    "ha_always_run",
    "ha_restart_priority",
    "power_state",
    "snapshot_info",
    "snapshot_metadata",
    "generation_id",
    "appliance",
    "groups",
}


def _snapshot(call: Call, ref: str, name: str, ignore: list[str], was: str) -> str:
    """Make the record and the disks of a snapshot.

    :param was: the power state in which the VM was found
    """
    db = call.db
    row = db.row("VM", ref)
    extra = {
        "is_a_template": True,
        "is_a_snapshot": True,
        "snapshot_of": ref,
        "snapshot_time": Timestamp(now()),
        "other_config": dict(row["other_config"]),
        "is_default_template": False,
        "parent": row["parent"],
        "snapshot_info": {
            "disk-snapshot-type": "crash_consistent",
            "power-state-at-snapshot": was,
        },
        "snapshot_metadata": vm_metadata.write(row),
    }
    new = vm_copies.copy_record(call, ref, name, extra)
    try:
        vm_copies.copy_disks(
            call, ref, new, lambda disk: vdi.snapshot(call, disk, {}), ignore
        )
    except Failure:
        vm_copies.discard(call, new)
        raise
    db.update("VM", ref, parent=new)
    return new


@message("VM.snapshot")
def snapshot(call: Call, ref: str, name: str, ignore_vdis: list[str]) -> str:
    """Keep record and disks as they are now."""
    with operations.under_way(call, ref, "snapshot") as row:
        new = _snapshot(call, ref, name, ignore_vdis, row["power_state"])
        history.tell(call.db, ref, "VM_SNAPSHOTTED", f"snapshotted as {name}")
        return new


@message("VM.checkpoint")
def checkpoint(call: Call, ref: str, name: str) -> str:
    """Keep record, disks and memory as they are now; the guest goes on."""
    db = call.db
    with operations.under_way(call, ref, "checkpoint") as row:
        was, host = row["power_state"], row["resident_on"]
        if was != "Suspended":
            _freeze(call, ref)
        try:
            new = _snapshot(call, ref, name, [], was)
            _keep_memory(call, ref, new)
        finally:
            if was != "Suspended":
                vm_power.from_image(call, ref, host, was == "Paused")
        history.tell(db, ref, "VM_CHECKPOINTED", f"checkpointed as {name}")
        return new


def _keep_memory(call: Call, ref: str, new: str) -> None:
    """Give a checkpoint a copy of the suspend image; without it, it is none."""
    db = call.db
    try:
        kept = vdi.clone(call, db.row("VM", ref)["suspend_VDI"], {})
    except Failure:
        vm_copies.discard_all(call, new)
        raise
    db.update("VM", new, power_state="Suspended", suspend_VDI=kept)


def _freeze(call: Call, ref: str) -> None:
    try:
        vm_power.to_image(call, ref)
    except Failure as failure:
        if failure.code == "VM_NO_SUSPEND_SR":
            raise
        raise Failure("VM_CHECKPOINT_SUSPEND_FAILED", ref) from failure


@message("VM.revert")
def revert(call: Call, ref: str) -> None:
    """Bring a VM back to what a snapshot kept of it; one that is gone is made again."""
    db = call.db
    with operations.under_way(call, ref, "revert") as row:
        vm = row["snapshot_of"]
        if not db.exists("VM", vm):
            vm = _make_again(call, ref)
        if vm == ref:
            # It would wait for itself.
            raise Failure("VM_REVERT_FAILED", ref, vm)
        with operations.under_way(call, vm, "reverting"):
            _bring_back(call, ref, vm)
            kept = f"{row['name_label']} (uuid {row['uuid']})"
            what = f"reverted to snapshot: {kept}"
            history.tell(db, vm, "VM_SNAPSHOT_REVERTED", what)


def _make_again(call: Call, ref: str) -> str:
    """Make the record of a VM of which only snapshots are left."""
    db = call.db
    row = db.row("VM", ref)
    texts = vm_metadata.read(row["snapshot_metadata"])
    if "uuid" not in texts or db.find("VM", uuid=texts["uuid"]):
        raise Failure("VM_REVERT_FAILED", ref, row["snapshot_of"])
    extra = {
        "uuid": texts["uuid"],
        "is_a_template": False,
        "is_a_snapshot": False,
        "snapshot_of": NULL,
        "snapshot_info": {},
        "snapshot_metadata": "",
        "other_config": dict(row["other_config"]),
    }
    vm = vm_copies.copy_record(call, ref, texts["name_label"], extra)
    lost = row["snapshot_of"]
    for other, about in db.rows("VM"):
        same = vm_metadata.read(about["snapshot_metadata"]).get("uuid") == texts["uuid"]
        if other == ref or (about["is_a_snapshot"] and same and lost == NULL):
            db.update("VM", other, snapshot_of=vm)
    return vm


def _bring_back(call: Call, ref: str, vm: str) -> None:
    """Give the VM the snapshot's disks, fields and state.

    The new disks come first: where they fail the VM is off, but else as it was.
    """
    db = call.db
    made: dict[str, str] = {}

    def derive(disk: str) -> str:
        made[disk] = vdi.clone(call, disk, {})
        return made[disk]

    old = list(db.row("VM", vm)["VBDs"])
    if db.row("VM", vm)["power_state"] != "Halted":
        vm_power.power_off(call, vm)
    try:
        vm_copies.copy_disks(call, ref, vm, derive)
    except Failure as failure:
        raise Failure("VM_REVERT_FAILED", ref, vm) from failure
    for disk, new in made.items():
        _take_over(call, disk, new)
    vm_copies.drop_drives(call, old)
    _restore_record(call, ref, vm)
    vm_copies.copy_image(call, ref, vm)
    if db.row("VM", vm)["power_state"] == "Suspended":
        guests.reserve_devices(db, vm)


def _take_over(call: Call, disk: str, new: str) -> None:
    """Let all snapshots of the disk that was, ``disk`` among them, be of the new."""
    db = call.db
    old = db.row("VDI", disk)["snapshot_of"]
    siblings = db.row("VDI", old)["snapshots"] if db.exists("VDI", old) else [disk]
    for snapshot_ref in list(siblings):
        db.update("VDI", snapshot_ref, snapshot_of=new)
    disks.refresh(call.world, db.row("VDI", new)["SR"])


def _restore_record(call: Call, ref: str, vm: str) -> None:
    """Write the snapshot's fields, names and VIFs back to the VM."""
    db = call.db
    row = db.row("VM", ref)
    fields: Row = {
        name: row[name]
        for name, about in db.schema.classes["VM"].fields.items()
        if about.qualifier != "D"
        and name not in _NOT_REVERTED
        and name not in vm_copies.NEVER_KEPT
    }
    texts = vm_metadata.read(row["snapshot_metadata"])
    fields.update({name: texts[name] for name in _NAMES if name in texts})
    metrics = db.row("VM", vm)["guest_metrics"]
    if db.exists("VM_guest_metrics", metrics):
        db.destroy("VM_guest_metrics", metrics)
    for device in list(db.row("VM", vm)["VIFs"]):
        db.destroy("VIF", device)
    db.update(
        "VM",
        vm,
        **fields,
        other_config=dict(row["other_config"]),
        generation_id=vm_copies.new_generation(db, row["generation_id"]),
        guest_metrics=vm_copies.copy_guest_metrics(db, row["guest_metrics"]),
        memory_overhead=row["memory_overhead"],
        bios_strings=dict(row["bios_strings"]),
        parent=ref,
        suspend_VDI=NULL,
    )
    vm_copies.copy_vifs(call, ref, vm)
