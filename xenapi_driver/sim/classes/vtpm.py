# SPDX-License-Identifier: Apache-2.0
"""Class VTPM: a guest's virtual trusted platform module."""

import base64
import binascii

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.vms import states, vm_copies

_MOST = 1


@computed("VTPM", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what a client may ask of it now."""
    halted = db.row("VM", row["VM"])["power_state"] == "Halted"
    return ["destroy"] if halted else []


@message("VTPM.create")
def create(call: Call, vm: str, is_unique: bool) -> str:
    """Give a halted VM a module that knows nothing yet; one is the most.

    :param is_unique: copies of the VM get none
    """
    db = call.db
    row = states.require(db, vm, "create_vtpm")
    if len(row["VTPMs"]) >= _MOST:
        raise Failure("VTPM_MAX_AMOUNT_REACHED", str(_MOST))
    contents = db.create("secret", {"value": ""})
    values = {"VM": vm, "is_unique": is_unique, "contents": contents}
    return db.create("VTPM", values)


@message("VTPM.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the module with all it knows; its VM must be halted."""
    vm = call.db.row("VTPM", ref)["VM"]
    state = call.db.row("VM", vm)["power_state"]
    if state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())
    vm_copies.drop_vtpm(call.db, ref)


@message("VTPM.get_contents")
def get_contents(call: Call, ref: str) -> str:
    """Return what the module knows, base64."""
    secret = call.db.row("VTPM", ref)["contents"]
    return str(call.db.row("secret", secret)["value"])


@message("VTPM.set_contents")
def set_contents(call: Call, ref: str, contents: str) -> None:
    """Replace what the module knows, base64."""
    try:
        base64.b64decode(contents, validate=True)
    except (binascii.Error, ValueError) as error:
        text = "contents are not base64 encoded"
        raise Failure("INVALID_VALUE", "contents", text) from error
    secret = call.db.row("VTPM", ref)["contents"]
    call.db.update("secret", secret, value=contents)
