# SPDX-License-Identifier: Apache-2.0
"""Class PBD: how a host reaches an SR."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.storage import sr_attach


def keep_secrets(call: Call, config: dict[str, str]) -> dict[str, str]:
    """Return a device_config with its passwords moved into secret objects."""
    if "secret" not in call.db.schema.classes:
        return config
    kept = {}
    for key, value in config.items():
        if key.endswith("password"):
            secret = call.db.create("secret", {"value": value})
            key, value = f"{key}_secret", call.db.row("secret", secret)["uuid"]
        kept[key] = value
    return kept


@message("PBD.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Join a host and an SR; not plugged."""
    db = call.db
    db.row("host", record["host"])
    sr = db.row("SR", record["SR"])
    twins = db.find("PBD", host=record["host"], SR=record["SR"])
    if twins:
        raise Failure("PBD_EXISTS", record["SR"], record["host"], twins[0])
    if sr["PBDs"] and not sr["shared"]:
        raise Failure("SR_NOT_SHARABLE", record["SR"], record["host"])
    record["device_config"] = keep_secrets(call, record["device_config"])
    return db.create("PBD", {**record, "currently_attached": False})


@message("PBD.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the connection; it must not be plugged."""
    if call.db.row("PBD", ref)["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    call.db.destroy("PBD", ref)


@message("PBD.plug")
def plug(call: Call, ref: str) -> None:
    """Connect; a plugged one stays so."""
    row = call.db.row("PBD", ref)
    if row["currently_attached"]:
        return
    sr_attach.attach(call.world, row["SR"], row["device_config"])
    call.db.update("PBD", ref, currently_attached=True)


@message("PBD.unplug")
def unplug(call: Call, ref: str) -> None:
    """Disconnect; no disk of the SR may be in use on the host."""
    db = call.db
    row = db.row("PBD", ref)
    if not row["currently_attached"]:
        return
    for vdi in db.row("SR", row["SR"])["VDIs"]:
        for vbd in db.row("VDI", vdi)["VBDs"]:
            drive = db.row("VBD", vbd)
            host = db.row("VM", drive["VM"])["resident_on"]
            if drive["currently_attached"] and host == row["host"]:
                raise Failure("VDI_IN_USE", vdi)
    db.update("PBD", ref, currently_attached=False)


@message("PBD.set_device_config")
def set_device_config(call: Call, ref: str, value: dict[str, str]) -> None:
    """Refuse: how an SR is reached is chosen once."""
    raise Failure("PERMISSION_DENIED", "")
