# SPDX-License-Identifier: Apache-2.0
"""Class VM: what can be sent to a running guest."""

import time
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.vms import guest_store, guests, operations, states

_AGENT_PLUGIN = "guest-agent-operation"
_AGENT_FUNCTIONS = {
    "run-script": "feature-xs-batcmd",
    "request-rdp-on": "feature-ts",
    "request-rdp-off": "feature-ts",
}
# Seconds between two calls of a guest's agent.
_INTERVAL = 10.0
_SECURE_BOOT_STATES = {True: "update_on_boot", False: "ok"}


@message("VM.send_sysrq", "VM.send_trigger")
def send_key(call: Call, ref: str, what: str) -> None:
    """Refuse, as real hosts do once they have looked at the power state."""
    operation = call.method.removeprefix("VM.")
    states.require(call.db, ref, operation)
    raise Failure("NOT_IMPLEMENTED", operation)


@message("VM.call_plugin")
def call_plugin(
    call: Call, ref: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Refuse what the guest's agent has no feature for: a Linux one has none of these.

    :raises Failure: also when it was called less than ten seconds ago
    """
    row = states.require(call.db, ref, "call_plugin")
    if plugin != _AGENT_PLUGIN:
        raise Failure("XENAPI_MISSING_PLUGIN", plugin)
    if function not in _AGENT_FUNCTIONS:
        raise Failure("UNKNOWN_XENAPI_PLUGIN_FUNCTION", function)
    last = call.world.agent_calls.get(ref, 0.0)
    wait = last + _INTERVAL - time.monotonic()
    if last and wait > 0:
        limit = (ref, f"{_INTERVAL:g}", f"{wait:.1f}")
        raise Failure("VM_CALL_PLUGIN_RATE_LIMIT", *limit)
    call.world.agent_calls[ref] = time.monotonic()
    raise _lacking(call, ref, row, _AGENT_FUNCTIONS[function])


def _lacking(call: Call, ref: str, row: Row, feature: str) -> Failure:
    other: dict[str, Any] = {}
    if call.db.exists("VM_guest_metrics", row["guest_metrics"]):
        other = call.db.row("VM_guest_metrics", row["guest_metrics"])["other"]
    if other.get(feature) == "1":
        return Failure("XENAPI_PLUGIN_FAILURE", feature, "the guest did not answer", "")
    return Failure("VM_LACKS_FEATURE", ref)


@message("VM.update_secureboot_certificates_on_boot")
def update_secureboot_certificates(call: Call, ref: str, mark: bool) -> None:
    """Have the firmware's certificates renewed at the next boot, or no longer."""
    states.require(call.db, ref, "changing_NVRAM")
    state = _SECURE_BOOT_STATES[mark]
    call.db.update("VM", ref, secureboot_certificates_state=state)


@message("VM.restart_device_models")
def restart_device_models(call: Call, ref: str) -> None:
    """Give the guest new device models: it moves to where it is."""
    with operations.under_way(call, ref, "pool_migrate") as row:
        if row["domain_type"] != "hvm":
            raise Failure("VM_HVM_REQUIRED", ref)
        guests.resettle(call.world, ref, row["resident_on"])


@message("VM.sysprep")
def sysprep(call: Call, ref: str, unattend: str, timeout: float) -> None:
    """Refuse: no guest here is a Windows."""
    states.require(call.db, ref, "sysprep")
    raise Failure("SYSPREP", ref, "the guest has no sysprep tool")


@message("VM.csvm")
def csvm(call: Call, ref: str) -> None:
    """Refuse once the power state was looked at."""
    states.require(call.db, ref, "csvm")
    raise Failure("NOT_IMPLEMENTED", "csvm")


@message("VM.set_xenstore_data")
def set_xenstore_data(call: Call, ref: str, value: dict[str, str]) -> None:
    """Replace what the guest is told; one that runs sees it at once."""
    row = call.db.row("VM", ref)
    if row["domid"] > 0:
        guest_store.check({**row, "xenstore_data": value})
    call.db.update("VM", ref, xenstore_data=value)
    guest_store.rewrite(call.world, ref)
