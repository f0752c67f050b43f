# SPDX-License-Identifier: Apache-2.0
"""Class VM: what is measured of a running guest, and what can be sent to it."""

import time
from typing import Any

from xenapi_driver.sim import guest_store, guests, operations, states
from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row

_AGENT_PLUGIN = "guest-agent-operation"
_AGENT_FUNCTIONS = {
    "run-script": "feature-xs-batcmd",
    "request-rdp-on": "feature-ts",
    "request-rdp-off": "feature-ts",
}
# Seconds between two calls of a guest's agent.
_INTERVAL = 10.0
_MOST = 2.0**63
_SECURE_BOOT_STATES = {True: "update_on_boot", False: "ok"}


def _source(name: str, text: str, units: str, value: float) -> Row:
    return {
        "name_label": name,
        "name_description": text,
        "enabled": True,
        "standard": True,
        "units": units,
        "min": 0.0,
        # A finite one: JSON knows no infinity.
        "max": _MOST if units != "(fraction)" else 1.0,
        "value": value,
    }


def _sources(call: Call, row: Row) -> list[Row]:
    """Return what is measured of a guest; nothing here keeps a CPU busy."""
    db = call.db
    metrics = db.row("VM_metrics", row["metrics"])
    size = float(metrics["memory_actual"])
    found = [
        _source(f"cpu{number}", f"CPU{number} usage", "(fraction)", 0.0)
        for number in range(metrics["VCPUs_number"])
    ]
    found.append(_source("memory", "Memory currently allocated to VM", "B", size))
    wanted = float(row["memory_target"])
    found.append(_source("memory_target", "Target of VM balloon driver", "B", wanted))
    for ref in row["VBDs"]:
        drive = db.row("VBD", ref)
        if drive["currently_attached"]:
            for way in ("write", "read"):
                name = f"vbd_{drive['device']}_{way}"
                found.append(_source(name, f"{way}s to the device", "B/s", 0.0))
    for ref in row["VIFs"]:
        interface = db.row("VIF", ref)
        if interface["currently_attached"]:
            for way in ("tx", "rx"):
                name = f"vif_{interface['device']}_{way}"
                found.append(_source(name, "bytes per second", "B/s", 0.0))
    return found


@message("VM.get_data_sources")
def get_data_sources(call: Call, ref: str) -> list[Row]:
    """Return what is measured of the guest."""
    return _sources(call, states.require(call.db, ref, "data_source_op"))


@message("VM.query_data_source")
def query_data_source(call: Call, ref: str, name: str) -> float:
    """Return the latest value of one measurement."""
    row = call.db.row("VM", ref)
    if row["power_state"] not in ("Running", "Paused"):
        state = row["power_state"].lower()
        raise Failure("VM_BAD_POWER_STATE", ref, "running;paused", state)
    return float(_find(call, row, name)["value"])


def _find(call: Call, row: Row, name: str) -> Row:
    for source in _sources(call, row):
        if source["name_label"] == name:
            return source
    text = f'[S(Rrdd_internal_error);S(Rrd.Invalid_data_source("{name}"))]'
    raise internal_error(f"IDL Error: {text}")


@message("VM.record_data_source", "VM.forget_data_source_archives")
def record_data_source(call: Call, ref: str, name: str) -> None:
    """Keep a measurement's history or drop it: what there is, is always kept."""
    _find(call, states.require(call.db, ref, "data_source_op"), name)


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
