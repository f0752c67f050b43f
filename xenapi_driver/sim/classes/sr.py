# SPDX-License-Identifier: Apache-2.0
"""Class SR: where disks live."""

from xenapi_driver.sim import disks
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row

_DISK_OPERATIONS = (
    "vdi_create",
    "vdi_destroy",
    "vdi_clone",
    "vdi_snapshot",
    "vdi_resize",
)


@computed("SR", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what the SR's driver can do."""
    found = ["unplug", "plug", "pbd_create", "pbd_destroy", "update", "scan"]
    return [*found, *_DISK_OPERATIONS] if row["content_type"] == "user" else found


@message("SR.scan")
def scan(call: Call, ref: str) -> None:
    """Take disks that appeared on the SR into the database, drop vanished ones."""
    disks.require_attached(call.world, ref)
    disks.scan(call.world, ref)


@message("SR.update")
def update(call: Call, ref: str) -> None:
    """Read the SR's size again."""
    disks.require_attached(call.world, ref)
    disks.refresh(call.world, ref)


@message("SR.get_supported_types")
def get_supported_types(call: Call) -> list[str]:
    """Return the types that a driver is installed for."""
    return [row["type"] for _, row in call.db.rows("SM")]


@message("SR.set_name_label")
def set_name_label(call: Call, ref: str, value: str) -> None:
    """Rename the SR."""
    call.db.update("SR", ref, name_label=value)


@message("SR.set_name_description")
def set_name_description(call: Call, ref: str, value: str) -> None:
    """Describe the SR."""
    call.db.update("SR", ref, name_description=value)


@message("SR.forget")
def forget(call: Call, ref: str) -> None:
    """Remove the SR from the database; nothing may be plugged."""
    row = call.db.row("SR", ref)
    for pbd in row["PBDs"]:
        if call.db.row("PBD", pbd)["currently_attached"]:
            raise Failure("SR_HAS_PBD", ref)
    for vdi in row["VDIs"]:
        for vbd in call.db.row("VDI", vdi)["VBDs"]:
            call.db.destroy("VBD", vbd)
        call.db.destroy("VDI", vdi)
    for pbd in row["PBDs"]:
        call.db.destroy("PBD", pbd)
    call.db.destroy("SR", ref)
    call.world.stores.pop(ref, None)
