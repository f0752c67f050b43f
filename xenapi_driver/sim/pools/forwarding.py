# SPDX-License-Identifier: Apache-2.0
"""Which host has to carry a call out, and what is said when it cannot be reached.

A coordinator answers from the database itself, and hands the rest on: what is done to
a guest goes to the host where it runs, what is done to a disk to one that has the SR.
"""

from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World

_VM = (
    "VM.call_host_plugin",
    "VM.call_plugin",
    "VM.checkpoint",
    "VM.clean_reboot",
    "VM.clean_shutdown",
    "VM.hard_reboot",
    "VM.hard_shutdown",
    "VM.migrate_send",
    "VM.pause",
    "VM.pool_migrate",
    "VM.query_data_source",
    "VM.send_sysrq",
    "VM.send_trigger",
    "VM.set_VCPUs_number_live",
    "VM.set_memory_dynamic_range",
    "VM.shutdown",
    "VM.snapshot",
    "VM.suspend",
    "VM.unpause",
)
_DEVICES = (
    "VBD.eject",
    "VBD.insert",
    "VBD.plug",
    "VBD.unplug",
    "VBD.unplug_force",
    "VIF.move",
    "VIF.plug",
    "VIF.unplug",
    "VIF.unplug_force",
)
# Of the messages to a host, those that the coordinator answers from the database.
_BY_COORDINATOR = (
    "assert_can_evacuate",
    "compute_free_memory",
    "compute_memory_overhead",
    "create_new_blob",
    "declare_dead",
    "destroy",
    "evacuate",
    "get_uncooperative_resident_VMs",
    "get_vms_which_prevent_evacuation",
    "power_on",
    "reset_cpu_features",
    "reset_networking",
    "retrieve_wlb_evacuate_recommendations",
    "set_cpu_features",
)
_TO_HOST = (
    "PIF.introduce",
    "PIF.scan",
    "SR.create",
    "SR.make",
    "SR.probe",
    "SR.probe_ext",
    "pool.designate_new_master",
    "pool.eject",
)
_OF_HOST = (
    "PBD.plug",
    "PBD.unplug",
    "PIF.forget",
    "PIF.plug",
    "PIF.reconfigure_ip",
    "PIF.reconfigure_ipv6",
    "PIF.set_primary_address_type",
    "PIF.set_property",
    "PIF.unplug",
)
_ON_PIF = ("VLAN.create", "host.management_reconfigure", "tunnel.create")
_PIF_OF = {
    "Bond.destroy": "master",
    "Bond.set_mode": "master",
    "Bond.set_property": "master",
    "VLAN.destroy": "untagged_PIF",
    "tunnel.destroy": "access_PIF",
}
_SR = ("SR.scan", "SR.update")
_VDI = (
    "VDI.clone",
    "VDI.copy",
    "VDI.data_destroy",
    "VDI.destroy",
    "VDI.disable_cbt",
    "VDI.enable_cbt",
    "VDI.list_changed_blocks",
    "VDI.resize",
    "VDI.snapshot",
    "VDI.update",
)

Hosts = Callable[[Registry, list[Any]], list[str]]


def _residence(db: Registry, vm: str) -> list[str]:
    host = db.row("VM", vm)["resident_on"]
    return [] if host == NULL else [host]


def _device(cls: str) -> Hosts:
    return lambda db, given: _residence(db, db.row(cls, given[0])["VM"])


def _attached(db: Registry, sr: str) -> list[str]:
    """Return the hosts that have the SR plugged."""
    rows = [db.row("PBD", pbd) for pbd in db.row("SR", sr)["PBDs"]]
    return [row["host"] for row in rows if row["currently_attached"]]


def _owner(cls: str) -> Hosts:
    return lambda db, given: [db.row(cls, given[0])["host"]]


def _host_of_pif(cls: str, field: str) -> Hosts:
    return lambda db, given: _host(db, db.row(cls, given[0])[field])


def _host(db: Registry, pif: str) -> list[str]:
    return [db.row("PIF", pif)["host"]] if db.exists("PIF", pif) else []


_HOSTS: dict[str, Hosts] = {
    **dict.fromkeys(_VM, lambda db, given: _residence(db, given[0])),
    **{name: _device(name.partition(".")[0]) for name in _DEVICES},
    **dict.fromkeys(_TO_HOST, lambda db, given: given[:1]),
    **{name: _owner(name.partition(".")[0]) for name in _OF_HOST},
    **dict.fromkeys(_ON_PIF, lambda db, given: _host(db, given[0])),
    **{
        name: _host_of_pif(name.partition(".")[0], field)
        for name, field in _PIF_OF.items()
    },
    "Bond.create": lambda db, given: _host(db, (given[1] or [NULL])[0]),
    "PIF.create_VLAN": lambda db, given: given[2:3],
    "VDI.create": lambda db, given: _attached(db, given[0]["SR"]),
    **dict.fromkeys(_SR, lambda db, given: _attached(db, given[0])),
    **dict.fromkeys(
        _VDI, lambda db, given: _attached(db, db.row("VDI", given[0])["SR"])
    ),
}


def _finder(call: Call) -> Hosts | None:
    """Return what names the hosts for a call; None: the coordinator answers it."""
    message = call.db.schema.message(call.method)
    if message is None or message.cls != "host" or message.kind != "custom":
        return _HOSTS.get(call.method)
    to_host = bool(message.params) and message.params[0].type.name == "host"
    if not to_host or message.name in _BY_COORDINATOR:
        return _HOSTS.get(call.method)
    return lambda db, given: given[:1]


def require_reachable(call: Call, arguments: list[Any]) -> None:
    """Refuse a call that no running host could carry out.

    :raises Failure: HOST_OFFLINE of a host that is known to be dead,
        CANNOT_CONTACT_HOST of one that just does not answer
    """
    dark = call.world.dark
    if not dark or not arguments:
        return
    find = _finder(call)
    hosts = find(call.db, arguments) if find else []
    if hosts and all(host in dark for host in hosts):
        raise unreachable(call.db, hosts[0])


def require_answer(world: World, host: str) -> None:
    """Refuse to do something on a host that does not answer.

    :raises Failure: HOST_OFFLINE, CANNOT_CONTACT_HOST
    """
    if host in world.dark:
        raise unreachable(world.db, host)


def counts_as_live(db: Registry, host: str) -> bool:
    """Return whether the pool believes that a host runs."""
    metrics = db.row("host", host)["metrics"]
    return bool(db.row("host_metrics", metrics)["live"])


def is_alive(world: World, host: str) -> bool:
    """Return whether a host answers: one that counts as live is asked first."""
    return counts_as_live(world.db, host) and host not in world.dark


def unreachable(db: Registry, host: str) -> Failure:
    """Return what is said of a host that does not answer."""
    live = counts_as_live(db, host)
    return Failure("CANNOT_CONTACT_HOST" if live else "HOST_OFFLINE", host)
