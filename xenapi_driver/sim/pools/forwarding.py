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
_HOST = (
    "host.backup_rrds",
    "host.bugreport_upload",
    "host.call_extension",
    "host.call_plugin",
    "host.compute_free_memory",
    "host.compute_memory_overhead",
    "host.disable",
    "host.dmesg",
    "host.enable",
    "host.get_data_sources",
    "host.get_log",
    "host.get_server_certificate",
    "host.get_server_localtime",
    "host.get_servertime",
    "host.get_uncooperative_domains",
    "host.has_extension",
    "host.migrate_receive",
    "host.query_data_source",
    "host.reboot",
    "host.restart_agent",
    "host.send_debug_keys",
    "host.shutdown",
    "host.shutdown_agent",
    "host.sync_data",
    "pool.designate_new_master",
    "pool.eject",
)
_OF_HOST = ("PBD.plug", "PBD.unplug", "PIF.plug", "PIF.unplug", "PIF.reconfigure_ip")
_SR = ("SR.scan", "SR.update", "SR.probe")
_VDI = ("VDI.clone", "VDI.copy", "VDI.destroy", "VDI.resize", "VDI.snapshot")

Hosts = Callable[[Registry, str], list[str]]


def _residence(db: Registry, vm: str) -> list[str]:
    host = db.row("VM", vm)["resident_on"]
    return [] if host == NULL else [host]


def _device(cls: str) -> Hosts:
    return lambda db, ref: _residence(db, db.row(cls, ref)["VM"])


def _attached(db: Registry, sr: str) -> list[str]:
    """Return the hosts that have the SR plugged."""
    rows = [db.row("PBD", pbd) for pbd in db.row("SR", sr)["PBDs"]]
    return [row["host"] for row in rows if row["currently_attached"]]


def _owner(cls: str) -> Hosts:
    return lambda db, ref: [db.row(cls, ref)["host"]]


_HOSTS: dict[str, Hosts] = {
    **dict.fromkeys(_VM, _residence),
    **{name: _device(name.partition(".")[0]) for name in _DEVICES},
    **dict.fromkeys(_HOST, lambda db, host: [host]),
    **{name: _owner(name.partition(".")[0]) for name in _OF_HOST},
    **dict.fromkeys(_SR, _attached),
    **dict.fromkeys(_VDI, lambda db, vdi: _attached(db, db.row("VDI", vdi)["SR"])),
}


def require_reachable(call: Call, arguments: list[Any]) -> None:
    """Refuse a call that no running host could carry out.

    :raises Failure: HOST_OFFLINE of a host that is known to be dead,
        CANNOT_CONTACT_HOST of one that just does not answer
    """
    dark = call.world.dark
    find = _HOSTS.get(call.method)
    if not dark or find is None or not arguments:
        return
    hosts = find(call.db, arguments[0])
    if hosts and all(host in dark for host in hosts):
        raise unreachable(call.db, hosts[0])


def require_answer(world: World, host: str) -> None:
    """Refuse to do something on a host that does not answer.

    :raises Failure: HOST_OFFLINE, CANNOT_CONTACT_HOST
    """
    if host in world.dark:
        raise unreachable(world.db, host)


def is_alive(world: World, host: str) -> bool:
    """Return whether a host answers: one that counts as live is asked first."""
    metrics = world.db.row("host", host)["metrics"]
    return bool(world.db.row("host_metrics", metrics)["live"]) and (
        host not in world.dark
    )


def unreachable(db: Registry, host: str) -> Failure:
    """Return what is said of a host that does not answer."""
    live = db.row("host_metrics", db.row("host", host)["metrics"])["live"]
    return Failure("CANNOT_CONTACT_HOST" if live else "HOST_OFFLINE", host)
