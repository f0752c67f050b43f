# SPDX-License-Identifier: Apache-2.0
"""Class VBD: a guest's disk or CD drive."""

import re
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disks, shown_disks
from xenapi_driver.sim.vms import states

MAX_DEVICES = 255
_NAME = re.compile(r"(?:xvd|hd|sd)([a-z]{1,2})\Z")


_OPERATIONS = (
    "attach",
    "unpause",
    "plug",
    "unplug",
    "unplug_force",
    "insert",
    "pause",
    "eject",
)
_UNPLUGS = ("unplug", "unplug_force")
_PLUGS = ("plug", *_UNPLUGS)
_NOT_FOR_GUESTS = ("cbt_metadata", "ha_statefile", "redo_log")
_NO_CD_HOTPLUG = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"


@computed("VBD", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of the drive now."""
    return [op for op in _OPERATIONS if _refusal(db, ref, row, op) is None]


def _refusal(db: Registry, ref: str, row: Row, operation: str) -> Failure | None:
    """Return why an operation is not allowed now, by XAPI's order of checks."""
    vm = db.row("VM", row["VM"])
    if operation in _UNPLUGS and not row["unpluggable"]:
        return Failure("VBD_NOT_UNPLUGGABLE", ref)
    if operation in ("insert", "eject"):
        return _medium_refusal(ref, row, vm)[operation]
    if operation == "attach":
        return None
    state = vm["power_state"]
    if state != "Running" and (state != "Paused" or operation in _PLUGS):
        return Failure("VM_BAD_POWER_STATE", row["VM"], "running", state.lower())
    return _plug_refusal(db, ref, row, operation) if operation in _PLUGS else None


def _medium_refusal(ref: str, row: Row, vm: Row) -> dict[str, Failure | None]:
    """Return why no medium can be put in or taken out."""
    if row["type"] != "CD":
        fixed = Failure("VBD_NOT_REMOVABLE_MEDIA", ref)
        return {"insert": fixed, "eject": fixed}
    asleep = None
    if vm["power_state"] == "Suspended":
        states_wanted = "halted, running"
        asleep = Failure("VM_BAD_POWER_STATE", row["VM"], states_wanted, "suspended")
    if row["empty"]:
        return {"insert": asleep, "eject": Failure("VBD_IS_EMPTY", ref)}
    return {"insert": Failure("VBD_NOT_EMPTY", ref), "eject": asleep}


def _plug_refusal(db: Registry, ref: str, row: Row, operation: str) -> Failure | None:
    """Return why a drive of a running guest is not plugged or unshown_disks."""
    if row["currently_attached"] and operation == "plug":
        return Failure("DEVICE_ALREADY_ATTACHED", ref)
    if not row["currently_attached"] and operation != "plug":
        return Failure("DEVICE_ALREADY_DETACHED", ref)
    vm = db.row("VM", row["VM"])
    try:
        states.require_staying(row["VM"], vm)
    except Failure as failure:
        return failure
    if vm["is_control_domain"] or not states.booted_hvm(db, vm):
        return None
    if row["type"] == "CD":
        return Failure("OPERATION_NOT_ALLOWED", _NO_CD_HOTPLUG)
    if row["mode"] == "RO":
        return Failure("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", ref)
    if not states.can_hotplug(db, vm):
        return Failure("VM_MISSING_PV_DRIVERS", row["VM"])
    return None


def _require(call: Call, ref: str, operation: str) -> Row:
    """Refuse what is not allowed now; return the drive's row.

    :raises Failure: VM_BAD_POWER_STATE and its like
    """
    row = call.db.row("VBD", ref)
    refused = _refusal(call.db, ref, row, operation)
    if refused is not None:
        raise refused
    return row


def device_number(userdevice: str) -> int | None:
    """Return the position that a decimal or a device name stands for."""
    if re.fullmatch(r"-?\d+", userdevice):
        return int(userdevice)
    match = _NAME.match(userdevice)
    if match is None:
        return None
    number = 0
    for letter in match[1]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def device_name(userdevice: str) -> str:
    """Return the guest's name of a position, such as xvda."""
    number = device_number(userdevice)
    letters = ""
    rest = (number if number is not None and number >= 0 else 0) + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return "xvd" + letters


@message("VM.get_allowed_VBD_devices")
def get_allowed_devices(call: Call, vm: str) -> list[str]:
    """Return the free positions."""
    taken = {
        device_number(call.db.row("VBD", ref)["userdevice"])
        for ref in call.db.row("VM", vm)["VBDs"]
    }
    return [str(number) for number in range(MAX_DEVICES) if number not in taken]


@message("VBD.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make a drive; it is not shown_disks."""
    db = call.db
    db.row("VM", record["VM"])
    if record["type"] == "CD" and record["mode"] == "RW":
        raise Failure("VBD_CDS_MUST_BE_READONLY")
    if record["empty"]:
        if record["type"] != "CD":
            raise Failure("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
        record["VDI"] = NULL
    else:
        vdi = db.row("VDI", record["VDI"])
        if not vdi["managed"]:
            raise Failure("VDI_NOT_MANAGED", record["VDI"])
        if vdi["type"] in _NOT_FOR_GUESTS:
            raise disks.wrong_kind(record["VDI"], vdi)
        if record["mode"] == "RW" and vdi["read_only"]:
            raise Failure("VDI_READONLY", record["VDI"])
    record["userdevice"] = _position(call, record["VM"], record["userdevice"])
    record.update(currently_attached=False, device="")
    # The class of these is gone, references to it are not.
    record["metrics"] = db.new_ref()
    return db.create("VBD", record)


def _position(call: Call, vm: str, userdevice: str) -> str:
    """Return a position that is free.

    :raises Failure: DEVICE_ALREADY_EXISTS, INVALID_DEVICE
    """
    allowed = get_allowed_devices(call, vm)
    if userdevice == "autodetect":
        if not allowed:
            raise Failure("INVALID_DEVICE", userdevice)
        return allowed[0]
    number = device_number(userdevice)
    if number is None:
        raise Failure("INVALID_DEVICE", userdevice)
    if 0 <= number < MAX_DEVICES and str(number) not in allowed:
        raise Failure("DEVICE_ALREADY_EXISTS", userdevice)
    return userdevice


@message("VBD.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a drive that is not shown_disks."""
    row = call.db.row("VBD", ref)
    if row["currently_attached"]:
        vm = call.db.row("VM", row["VM"])["uuid"]
        text = f"VBD '{row['uuid']}' still attached to '{vm}'"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    call.db.destroy("VBD", ref)


def assert_not_in_use(db: Registry, ref: str, row: Row) -> None:
    """Refuse a disk that another drive has plugged, unless they can share it.

    :raises Failure: VDI_IN_USE
    """
    if row["empty"]:
        return
    vdi = db.row("VDI", row["VDI"])
    if vdi["sharable"]:
        return
    for other in vdi["VBDs"]:
        rival = db.row("VBD", other)
        if other == ref or not rival["currently_attached"]:
            continue
        if "RW" in (row["mode"], rival["mode"]):
            raise Failure("VDI_IN_USE", row["VDI"])


@message("VBD.plug")
def plug(call: Call, ref: str) -> None:
    """Plug into the running guest."""
    db = call.db
    row = _require(call, ref, "plug")
    assert_not_in_use(db, ref, row)
    _require_sr(call, row, db.row("VM", row["VM"])["resident_on"])
    device = shown_disks.device_of(call.world, row, device_name(row["userdevice"]))
    shown_disks.show(call.world, row, device)
    db.update("VBD", ref, currently_attached=True, device=device)


def _require_sr(call: Call, row: Row, host: str) -> None:
    if row["empty"]:
        return
    sr = call.db.row("VDI", row["VDI"])["SR"]
    plugged = call.db.find("PBD", SR=sr, host=host, currently_attached=True)
    if not plugged:
        raise Failure("SR_NOT_ATTACHED", sr)


@message("VBD.unplug", "VBD.unplug_force", "VBD.unplug_force_no_safety_check")
def unplug(call: Call, ref: str) -> None:
    """Take off the running guest."""
    forced = call.method != "VBD.unplug"
    _require(call, ref, "unplug_force" if forced else "unplug")
    shown_disks.hide(call.world, ref, force=forced)
    call.db.update("VBD", ref, currently_attached=False)


@message("VBD.insert")
def insert(call: Call, ref: str, vdi: str) -> None:
    """Put a medium into an empty drive."""
    _require(call, ref, "insert")
    call.db.row("VDI", vdi)
    call.db.update("VBD", ref, VDI=vdi, empty=False)


@message("VBD.eject")
def eject(call: Call, ref: str) -> None:
    """Take the medium out."""
    _require(call, ref, "eject")
    call.db.update("VBD", ref, VDI=NULL, empty=True)


@message("VBD.assert_attachable")
def assert_attachable(call: Call, ref: str) -> None:
    """Refuse where a plug would meet another user of the disk."""
    assert_not_in_use(call.db, ref, call.db.row("VBD", ref))


@message("VBD.set_mode")
def set_mode(call: Call, ref: str, value: str) -> None:
    """Change between RO and RW while the guest is off."""
    row = call.db.row("VBD", ref)
    vm = call.db.row("VM", row["VM"])
    if vm["power_state"] != "Halted":
        state = vm["power_state"].lower()
        raise Failure("VM_BAD_POWER_STATE", row["VM"], "halted", state)
    call.db.update("VBD", ref, mode=value)


@message("VBD.pause", "VBD.unpause")
def pause(call: Call, ref: str, *token: str) -> str:
    """Hold I/O of a plugged disk, or let it go on."""
    _require(call, ref, call.method.removeprefix("VBD."))
    return ""
