# SPDX-License-Identifier: Apache-2.0
"""Classes host and host_metrics: the physical host."""

import json

from xenapi_driver.sim.dom0 import PluginError
from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.vms import memory

_ALWAYS = ["vm_migrate", "provision", "vm_resume", "enable", "evacuate", "vm_start"]
_WHEN_DISABLED = ["apply_updates", "reboot", "shutdown"]


@computed("host", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what the host takes now."""
    return _ALWAYS if row["enabled"] else [*_ALWAYS, *_WHEN_DISABLED]


@message("host.call_plugin", blocking=True, missing="HOST_OFFLINE")
def call_plugin(
    call: Call, host: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Run a dom0 plugin on a host and return its text."""
    call.check_cancelled()
    try:
        dom0 = call.world.dom0_of(host)
        return dom0.call_plugin(plugin, function, call.session, args)
    except PluginError as error:
        description = [str(item) for item in error.args[0]]
        raise Failure(*description) from None


@message("VM.call_host_plugin", blocking=True)
def call_host_plugin(
    call: Call, vm: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Run a dom0 plugin on the host that a guest runs on."""
    row = call.db.row("VM", vm)
    if row["power_state"] != "Running":
        raise Failure("VM_BAD_POWER_STATE", vm, "Running", row["power_state"])
    return call_plugin(call, row["resident_on"], plugin, function, args)


@message("host.call_extension")
def call_extension(call: Call, host: str, text: str) -> str:
    """Refuse: no extension is installed; the call must be JSON all the same."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise internal_error(f"Yojson__Common.Json_error({exc})") from exc
    name = request.get("method") if isinstance(request, dict) else None
    if not isinstance(name, str):
        wrong = "Invalid field 'method' in request body"
        raise internal_error(f'Jsonrpc.Malformed_method_request("{wrong}")')
    raise Failure("MESSAGE_METHOD_UNKNOWN", name)


@message("host.compute_free_memory")
def compute_free_memory(call: Call, host: str) -> int:
    """Return the bytes that new guests can have."""
    return memory.free(call.db, host)


@message("host.compute_memory_overhead")
def compute_memory_overhead(call: Call, host: str) -> int:
    """Return the bytes that Xen itself takes."""
    return int(call.db.row("host", host)["memory_overhead"])


@message("host.dmesg")
def dmesg(call: Call, host: str) -> str:
    """Return the kernel messages."""
    return ""


@message("host.has_extension")
def has_extension(call: Call, host: str, name: str) -> bool:
    """Return whether an extension of that name is installed: there is none."""
    return False


@message("host.list_methods")
def list_methods(call: Call) -> None:
    """Refuse, as a real host does: system.listMethods is the way."""
    raise Failure("NOT_IMPLEMENTED", "list_method")
