# SPDX-License-Identifier: Apache-2.0
"""Class PBD: how a host reaches an SR."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message


@message("PBD.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Join a host and an SR; not plugged."""
    call.db.row("host", record["host"])
    call.db.row("SR", record["SR"])
    twins = call.db.find("PBD", host=record["host"], SR=record["SR"])
    if twins:
        raise Failure("PBD_EXISTS", record["SR"], record["host"], twins[0])
    return call.db.create("PBD", record)


@message("PBD.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the connection; it must not be plugged."""
    if call.db.row("PBD", ref)["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    call.db.destroy("PBD", ref)


@message("PBD.plug")
def plug(call: Call, ref: str) -> None:
    """Connect; a plugged one stays so."""
    call.db.update("PBD", ref, currently_attached=True)


@message("PBD.unplug")
def unplug(call: Call, ref: str) -> None:
    """Disconnect; no disk of the SR may be in use on the host."""
    row = call.db.row("PBD", ref)
    for vdi in call.db.row("SR", row["SR"])["VDIs"]:
        for vbd in call.db.row("VDI", vdi)["VBDs"]:
            if call.db.row("VBD", vbd)["currently_attached"]:
                raise Failure("VDI_IN_USE", vdi, "unplug")
    call.db.update("PBD", ref, currently_attached=False)


@message("PBD.set_device_config")
def set_device_config(call: Call, ref: str, value: dict[str, str]) -> None:
    """Change how the SR is reached; not while plugged."""
    if call.db.row("PBD", ref)["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    call.db.update("PBD", ref, device_config=value)
