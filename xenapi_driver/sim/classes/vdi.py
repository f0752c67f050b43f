# SPDX-License-Identifier: Apache-2.0
"""Class VDI: a disk on an SR."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from xenapi_driver.sim import tasks
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import cbt, disks, shown_disks, sr_kinds
from xenapi_driver.sim.storage.vhd_store import SrStore
from xenapi_driver.sim.world import now

# What a clone or copy takes over from its source.
_INHERITED = (
    "name_label",
    "name_description",
    "type",
    "other_config",
    "xenstore_data",
    "on_boot",
    "tags",
)
_MAX_SIZE = 2040 * 1024**3
_BLOCK = 2 * 1024**2


# Operations that a client is told of, and what they need of the driver.
_OPERATIONS = {
    "copy": "",
    "generate_config": "VDI_GENERATE_CONFIG",
    "clone": "VDI_CLONE",
    "forget": "",
    "update": "VDI_UPDATE",
    "resize": "VDI_RESIZE",
    "snapshot": "VDI_SNAPSHOT",
    "destroy": "VDI_DELETE",
}


@computed("VDI", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the disk now."""
    driver = sr_kinds.features(db.row("SR", row["SR"]))
    running = set(row["current_operations"].values())
    if not row["managed"] or running - {"copy"}:
        return []
    users = plugged(db, row)
    found = [op for op, need in _OPERATIONS.items() if not need or need in driver]
    if row["type"] == "cbt_metadata":
        return [op for op in found if op in ("forget", "update", "destroy")]
    if users or running:
        reading = all(db.row("VBD", vbd)["mode"] == "RO" for vbd in users)
        kept = ("clone", "snapshot", "copy") if reading else ("clone", "snapshot")
        found = [op for op in found if op in kept]
    return [op for op in found if op not in _barred(row)]


def _barred(row: Row) -> set[str]:
    """Return what a disk of this kind never does, or not while it is copied."""
    found: set[str] = set()
    if row["sharable"] or "copy" in row["current_operations"].values():
        found.add("snapshot")
    if row["on_boot"] == "reset":
        found |= {"snapshot", "copy"}
    if row["type"] == "rrd":
        found |= {"forget", "destroy"}
    return found


def plugged(db: Registry, row: Row) -> list[str]:
    """Return the VBDs through which the disk is in use."""
    return [vbd for vbd in row["VBDs"] if db.row("VBD", vbd)["currently_attached"]]


def require_unused(call: Call, ref: str, operation: str) -> Row:
    """Refuse work on a disk that a guest or a transfer uses.

    :raises Failure: VDI_IN_USE, OTHER_OPERATION_IN_PROGRESS, HANDLE_INVALID
    """
    row = call.db.row("VDI", ref)
    for label, other in row["current_operations"].items():
        # The host itself reads a disk that it copies, as a guest would.
        if other != "copy":
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", ref, other, label)
    if plugged(call.db, row) or row["current_operations"]:
        raise Failure("VDI_IN_USE", ref, operation)
    require_not_held(call, ref, operation)
    return row


def require_not_held(call: Call, ref: str, operation: str) -> None:
    """Refuse work on a disk whose files a transfer has for itself.

    :raises Failure: VDI_IN_USE
    """
    if call.db.row("VDI", ref)["uuid"] in call.world.held_disks:
        raise Failure("VDI_IN_USE", ref, operation)


def _check_size(size: int) -> int:
    """Return the size rounded up to what a VHD can have."""
    if not 0 <= size <= _MAX_SIZE:
        text = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]"
        raise Failure("SR_BACKEND_FAILURE_79", "", text, "")
    return max(_BLOCK, -(-size // _BLOCK) * _BLOCK)


@message("VDI.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make an empty disk; the size is rounded up."""
    db, world = call.db, call.world
    db.row("SR", record["SR"])
    if record["type"] == "cbt_metadata":
        raise disks.wrong_kind("", record)
    store = disks.store_of(world, record["SR"], "VDI_CREATE")
    size = record["virtual_size"]
    # A library of CDs makes a plain file of the very size.
    if isinstance(store, SrStore) or size < 1:
        size = _check_size(size)
    uuid = db.new_uuid()
    where = store.location(uuid)
    config = record["sm_config"]
    raw = "raw" in (config.get("type"), config.get("image-format"))
    with disks.backend_errors():
        if raw and isinstance(store, SrStore):
            world.before_making(store.path_of(where).with_suffix(".raw"))
            store.create(where, size, raw=True)
        else:
            world.before_making(store.path_of(where))
            store.create(where, size)
    known = {"uuid": uuid, "location": where, "managed": True, "metadata_of_pool": ""}
    ref = db.create("VDI", {**record, **known})
    disks.note(world, record["SR"], where)
    return ref


def _derive(call: Call, source: str, extra: dict[str, Any]) -> str:
    """Put a new leaf on the disk's data and return its VDI."""
    db, world = call.db, call.world
    row = db.row("VDI", source)
    require_not_held(call, source, "snapshot" if extra else "clone")
    store = disks.vhds_of(world, row["SR"])
    leaf, parent = db.new_uuid(), db.new_uuid()
    with disks.backend_errors("SR_BACKEND_FAILURE_81"):
        shown_disks.sync(world, store.path_of(row["location"]))
        world.before_making(store.path_of(leaf))
        base = store.clone(row["location"], leaf, parent)
    ref = db.create(
        "VDI",
        {
            **{name: row[name] for name in _INHERITED},
            "uuid": leaf,
            "location": leaf,
            "SR": row["SR"],
            "managed": True,
            "snapshot_time": now(),
            "metadata_of_pool": NULL,
            **extra,
        },
    )
    made = [base] if base else []
    disks.note(world, row["SR"], row["location"], leaf, *made)
    return ref


def _require_leaf(call: Call, ref: str) -> None:
    row = call.db.row("VDI", ref)
    if not row["managed"]:
        raise Failure("VDI_NOT_MANAGED", ref)
    _require_content(ref, row)


def _require_content(ref: str, row: Row) -> None:
    """Refuse a snapshot that has lost its data."""
    if row["type"] == "cbt_metadata":
        raise disks.wrong_kind(ref, row)


def _require_no_statistics(ref: str, row: Row) -> None:
    """Refuse to take the disk of an SR's statistics away.

    :raises Failure: VDI_HAS_RRDS
    """
    if row["type"] == "rrd":
        raise Failure("VDI_HAS_RRDS", ref)


@message("VDI.clone")
def clone(call: Call, ref: str, driver_params: dict[str, str]) -> str:
    """Make a copy-on-write twin; works on a plugged disk too.

    Where the driver cannot, a twin for a VM's clone gets a full copy.
    """
    sr = call.db.row("VDI", ref)["SR"]
    if call.method == "VDI.clone":
        sr_kinds.require_feature(call.db, sr, "VDI_CLONE")
    _require_leaf(call, ref)
    if "VDI_CLONE" not in sr_kinds.features(call.db.row("SR", sr)):
        return copy(call, ref, sr, NULL, NULL)
    return _derive(call, ref, {})


@message("VDI.snapshot")
def snapshot(call: Call, ref: str, driver_params: dict[str, str]) -> str:
    """Keep the disk as it is now."""
    row = call.db.row("VDI", ref)
    _require_leaf(call, ref)
    sr_kinds.require_feature(call.db, row["SR"], "VDI_SNAPSHOT")
    if row["sharable"]:
        raise Failure("VDI_IS_SHARABLE", ref)
    if row["on_boot"] == "reset":
        raise Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if "copy" in row["current_operations"].values():
        text = "Snapshot operation not allowed during copy."
        raise Failure("OPERATION_NOT_ALLOWED", text)
    tracked = row["cbt_enabled"]
    extra = {"is_a_snapshot": True, "snapshot_of": ref, "cbt_enabled": tracked}
    new = _derive(call, ref, extra)
    if (disk := disks.log_path(call.world, ref)) is not None:
        cbt.snapshot(disk, call.db.row("VDI", new)["uuid"])
    return new


@message("VDI.copy", blocking=True)
def copy(call: Call, ref: str, sr: str, base: str, into: str) -> str:
    """Write the whole content into a new disk on an SR, or into a given one."""
    db = call.db
    call.check_cancelled()
    with db.changed:
        _require_copyable(call, ref)
        if into == NULL:
            db.row("SR", sr)
    with busy(call, ref, "copy"):
        if into != NULL:
            return _copy_into(call, ref, into)
        return _copy_to(call, ref, sr)


def _copy_to(call: Call, ref: str, sr: str) -> str:
    db, world = call.db, call.world
    with db.changed:
        row = db.row("VDI", ref)
        source = disks.store_of(world, row["SR"])
        target = disks.store_of(world, sr, "VDI_CREATE")
        uuid = db.new_uuid()
        where = target.location(uuid)
        fields = {name: row[name] for name in _INHERITED}
        fields["metadata_of_pool"] = ""
        fields["other_config"] = _mark_content(call, ref)
    with disks.backend_errors():
        disks.stage_copy(source, row["location"], target, where, _progress(call))
    try:
        # Together, or a scan in between makes a second VDI of the new file.
        with db.changed:
            call.check_cancelled()
            with disks.backend_errors():
                world.before_making(target.path_of(where))
                target.publish(where)
            new = db.create(
                "VDI",
                {**fields, "uuid": uuid, "location": where, "SR": sr, "managed": True},
            )
            disks.note(world, sr, where)
            return new
    finally:
        target.discard(where)


def _progress(call: Call) -> Callable[[float], None]:
    """Return what reports a share of the work, and ends a cancelled one."""

    def report(share: float) -> None:
        call.check_cancelled()
        tasks.set_progress(call, min(0.99, share))

    return report


@contextlib.contextmanager
def busy(call: Call, ref: str, operation: str) -> Iterator[None]:
    """Show clients what is done to the disk meanwhile."""
    db = call.db
    label = call.task or db.new_ref()
    with db.changed:
        running = {**db.row("VDI", ref)["current_operations"], label: operation}
        db.update("VDI", ref, current_operations=running)
    try:
        yield
    finally:
        with db.changed:
            if db.exists("VDI", ref):
                left = dict(db.row("VDI", ref)["current_operations"])
                left.pop(label, None)
                db.update("VDI", ref, current_operations=left)


def _mark_content(call: Call, ref: str) -> dict[str, str]:
    """Return the other_config of a copy: source and copy bear the same content_id."""
    config = call.db.row("VDI", ref)["other_config"]
    if "content_id" not in config:
        config = {**config, "content_id": call.db.new_uuid()}
        call.db.update("VDI", ref, other_config=config)
    return dict(config)


def _copy_into(call: Call, ref: str, into: str) -> str:
    """Replace what a disk of at least the same size holds."""
    db, world = call.db, call.world
    with db.changed:
        source, target = db.row("VDI", ref), require_unused(call, into, "copy")
        if target["virtual_size"] < source["virtual_size"]:
            size = str(source["virtual_size"])
            raise Failure("VDI_TOO_SMALL", into, size)
        if target["read_only"]:
            raise Failure("VDI_READONLY", into)
        store, origin = (disks.store_of(world, one["SR"]) for one in (target, source))
        world.held_disks.add(target["uuid"])
    name, size = target["location"], target["virtual_size"]
    try:
        with disks.backend_errors():
            place = source["location"]
            disks.stage_copy(origin, place, store, name, _progress(call), size)
            store.replace(name)
    finally:
        store.discard(name)
        world.held_disks.discard(target["uuid"])
    with db.changed:
        disks.note(world, target["SR"], name)
    return into


def _require_copyable(call: Call, ref: str) -> Row:
    """A disk that somebody writes cannot be read whole."""
    row = call.db.row("VDI", ref)
    for vbd in plugged(call.db, row):
        if call.db.row("VBD", vbd)["mode"] == "RW":
            raise Failure("VDI_IN_USE", ref, "copy")
    require_not_held(call, ref, "copy")
    _require_leaf(call, ref)
    if row["on_boot"] == "reset":
        raise Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    return row


@message("VDI.resize")
def resize(call: Call, ref: str, size: int) -> None:
    """Make the disk larger; it must not be plugged."""
    row = require_unused(call, ref, "resize")
    _require_leaf(call, ref)
    sr_kinds.require_feature(call.db, row["SR"], "VDI_RESIZE")
    disks.require_attached(call.world, row["SR"])
    wanted = _check_size(size)
    if wanted < row["virtual_size"]:
        text = "VDI Invalid size [opterr=Shrinking VDIs not supported]"
        raise Failure("SR_BACKEND_FAILURE_79", "", text, "")
    if wanted > row["virtual_size"]:
        store = disks.vhds_of(call.world, row["SR"])
        with disks.backend_errors("SR_BACKEND_FAILURE_110"):
            store.resize(row["location"], wanted)
        if (disk := disks.log_path(call.world, ref)) is not None:
            cbt.resize(disk, wanted)
        disks.note(call.world, row["SR"], row["location"])


@message("VDI.resize_online")
def resize_online(call: Call, ref: str, size: int) -> None:
    """Refuse: no driver here can do it."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED", call.db.row("VDI", ref)["SR"])


@message("VDI.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the disk, its VBDs, and base copies that nothing needs any more."""
    row = require_unused(call, ref, "destroy")
    _require_no_statistics(ref, row)
    sr = row["SR"]
    if call.db.row("SR", sr)["type"] == "udev":
        raise Failure("VDI_IS_A_PHYSICAL_DEVICE", ref)
    store = disks.store_of(call.world, sr, "VDI_DELETE")
    size = row["physical_utilisation"]
    log = disks.log_path(call.world, ref)
    if row["type"] != "cbt_metadata":
        with disks.backend_errors("SR_BACKEND_FAILURE_80"):
            store.destroy(row["location"])
    if log is not None:
        cbt.remove(log)
    disks.drop(call.world, ref)
    disks.gone(call.world, sr, size)
    call.world.collect(sr)


@message("VDI.forget")
def forget(call: Call, ref: str) -> None:
    """Remove the disk from the database; a scan finds it again."""
    _require_no_statistics(ref, require_unused(call, ref, "forget"))
    disks.drop(call.world, ref)


@message("VDI.update")
def update(call: Call, ref: str) -> None:
    """Read the disk's facts again."""
    row = call.db.row("VDI", ref)
    sr_kinds.require_feature(call.db, row["SR"], "VDI_UPDATE")
    disks.require_attached(call.world, row["SR"])
    if row["SR"] in call.world.stores and row["type"] != "cbt_metadata":
        disks.note(call.world, row["SR"], row["location"])


@message("VDI.set_name_label")
def set_name_label(call: Call, ref: str, value: str) -> None:
    """Rename the disk; a host that reaches its SR carries it out."""
    disks.require_attached(call.world, call.db.row("VDI", ref)["SR"])
    call.db.update("VDI", ref, name_label=value)


@message("VDI.set_name_description")
def set_name_description(call: Call, ref: str, value: str) -> None:
    """Describe the disk; a host that reaches its SR carries it out."""
    disks.require_attached(call.world, call.db.row("VDI", ref)["SR"])
    call.db.update("VDI", ref, name_description=value)


def _require_no_running_guest(call: Call, ref: str) -> None:
    """Refuse to change how guests find a disk while one of them is not halted.

    :raises Failure: VM_BAD_POWER_STATE
    """
    for vbd in call.db.row("VDI", ref)["VBDs"]:
        vm = call.db.row("VBD", vbd)["VM"]
        state = call.db.row("VM", vm)["power_state"]
        if state != "Halted":
            raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())


@message("VDI.set_on_boot")
def set_on_boot(call: Call, ref: str, value: str) -> None:
    """Choose whether each start begins with the same content."""
    _require_no_running_guest(call, ref)
    row = require_unused(call, ref, "set_on_boot")
    _require_leaf(call, ref)
    sr_kinds.require_feature(call.db, row["SR"], "VDI_RESET_ON_BOOT")
    if row["cbt_enabled"]:
        raise Failure("VDI_CBT_ENABLED", ref)
    if value == "reset" and row["on_boot"] != value:
        store = disks.vhds_of(call.world, row["SR"])
        with disks.backend_errors("SR_BACKEND_FAILURE_82"):
            base = store.freeze(row["location"], call.db.new_uuid())
        if base:
            disks.note(call.world, row["SR"], row["location"], base)
    call.db.update("VDI", ref, on_boot=value)
    call.world.collect(row["SR"])


@message("VDI.set_allow_caching")
def set_allow_caching(call: Call, ref: str, value: bool) -> None:
    """Choose whether hosts may cache the content."""
    _require_no_running_guest(call, ref)
    call.db.update("VDI", ref, allow_caching=value)


@message(
    "VDI.set_sharable",
    "VDI.set_read_only",
    "VDI.set_managed",
    "VDI.set_missing",
    "VDI.set_virtual_size",
    "VDI.set_physical_utilisation",
)
def driver_only(call: Call, ref: str, value: object) -> None:
    """Refuse: storage drivers set these."""
    raise Failure("PERMISSION_DENIED", "")
