# SPDX-License-Identifier: Apache-2.0
"""What a running guest tells of itself, and when: drivers, agent, addresses.

``other_config`` of a VM chooses with ``sim:agent``: ``none`` has drivers, but nobody
answers a request to shut down; ``absent`` has no drivers either. ``vm-data/sim-agent``
set to 1 in ``xenstore_data`` is a guest whose agent is there as soon as it runs.
"""

import ipaddress
from typing import Any

from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import guest_store
from xenapi_driver.sim.world import World, now

_FEATURES = ("balloon", "poweroff", "reboot", "shutdown", "suspend", "vcpu-hotplug")
# Guests get addresses from here on, as the network's DHCP server would give them.
_FIRST_IPV4 = ipaddress.IPv4Address("192.168.66.101")
_FIRST_IPV6 = ipaddress.IPv6Address("fe80::216:3eff:fe00:1")
_AGENT: Row = {
    "os_version": {
        "name": "Debian GNU/Linux 12 (bookworm)",
        "uname": "6.1.0-18-amd64",
        "distro": "debian",
        "major": "12",
        "minor": "5",
    },
    "PV_drivers_version": {"major": "7", "minor": "30", "micro": "0", "build": "12"},
    "PV_drivers_up_to_date": True,
    "other": {f"feature-{name}": "1" for name in _FEATURES},
    "live": True,
}
_NOTHING: Row = {
    "os_version": {},
    "PV_drivers_version": {},
    "PV_drivers_up_to_date": False,
    "PV_drivers_detected": False,
    "networks": {},
    "other": {},
    "live": False,
    "can_use_hotplug_vbd": "unspecified",
    "can_use_hotplug_vif": "unspecified",
}


def silent(row: Row) -> bool:
    """Return whether the guest never answers a request to shut down."""
    return bool(row["other_config"].get("sim:agent") == "none")


def _at_once(row: Row) -> bool:
    return bool(row["xenstore_data"].get("vm-data/sim-agent") == "1")


def _has_drivers(world: World, row: Row) -> bool:
    mark = row["other_config"].get("sim:agent")
    if mark in ("none", "absent"):
        return bool(mark == "none")
    return world.behaviour.agents or _at_once(row)


def booted(world: World, vm: str) -> None:
    """Let the guest's drivers and agent come up, unless they are there already."""
    row = world.db.row("VM", vm)
    if not _has_drivers(world, row) or reported(world, row):
        return
    delay = 0.0 if _at_once(row) else world.behaviour.agent_delay
    if not delay:
        _report(world, vm)
        return
    domid = row["domid"]
    world.alarms.after(delay, lambda: _report_if_same(world, vm, domid))


def reported(world: World, row: Row) -> bool:
    """Return whether the guest told something of itself."""
    ref = row["guest_metrics"]
    db = world.db
    return db.exists("VM_guest_metrics", ref) and bool(
        db.row("VM_guest_metrics", ref)["PV_drivers_detected"]
    )


def _report_if_same(world: World, vm: str, domid: int) -> None:
    """Report, unless the guest went, restarted or is held meanwhile."""
    with world.db.changed:
        if world.closing.is_set() or not world.db.exists("VM", vm):
            return
        row = world.db.row("VM", vm)
        if row["domid"] == domid and row["power_state"] == "Running":
            _report(world, vm)


def _report(world: World, vm: str) -> None:
    db = world.db
    row = db.row("VM", vm)
    values = {
        **_NOTHING,
        **({} if silent(row) else {**_AGENT, "networks": _networks(world, row)}),
        "PV_drivers_detected": True,
        "can_use_hotplug_vbd": "yes",
        "can_use_hotplug_vif": "yes",
        "last_updated": now(),
    }
    if db.exists("VM_guest_metrics", row["guest_metrics"]):
        db.update("VM_guest_metrics", row["guest_metrics"], **values)
    else:
        db.update("VM", vm, guest_metrics=db.create("VM_guest_metrics", values))
    if not silent(row):
        guest_store.tell(world, vm, _in_store(values))


def _in_store(values: Row) -> dict[str, str]:
    """Return what the agent writes to the store, from which all else follows."""
    version = values["PV_drivers_version"]
    found = {
        "attr/PVAddons/Installed": "1",
        "attr/PVAddons/MajorVersion": version["major"],
        "attr/PVAddons/MinorVersion": version["minor"],
        "attr/PVAddons/MicroVersion": version["micro"],
        "attr/PVAddons/BuildVersion": version["build"],
        "data/os_name": values["os_version"]["name"],
        "data/os_uname": values["os_version"]["uname"],
        "data/updated": "1",
    }
    found.update({f"control/{name}": on for name, on in values["other"].items()})
    for name, address in values["networks"].items():
        device, _, kind = name.partition("/")
        if kind.startswith("ipv"):
            found[f"attr/vif/{device}/{kind}"] = address
    return found


def _networks(world: World, row: Row) -> dict[str, str]:
    """Return the addresses of a guest, as its agent writes them."""
    found = {}
    for ref in row["VIFs"]:
        interface = world.db.row("VIF", ref)
        if not interface["currently_attached"]:
            continue
        number = world.leases.take(ref)
        ipv4 = str(_FIRST_IPV4 + number)
        if interface["ipv4_configuration_mode"] == "Static":
            ipv4 = interface["ipv4_addresses"][0].split("/")[0]
        device = interface["device"]
        found[f"{device}/ip"] = ipv4
        found[f"{device}/ipv4/0"] = ipv4
        found[f"{device}/ipv6/0"] = str(_FIRST_IPV6 + number)
    return found


def interfaces_changed(world: World, vm: str) -> None:
    """Let the agent tell its addresses again."""
    db = world.db
    row = db.row("VM", vm)
    if reported(world, row) and not silent(row):
        addresses = _networks(world, row)
        values: dict[str, Any] = {"networks": addresses, "last_updated": now()}
        db.update("VM_guest_metrics", row["guest_metrics"], **values)


def restarting(world: World, vm: str) -> None:
    """Let what the guest told be over; it has to tell again."""
    row = world.db.row("VM", vm)
    if world.db.exists("VM_guest_metrics", row["guest_metrics"]):
        world.db.update("VM_guest_metrics", row["guest_metrics"], **_NOTHING)


def forget(world: World, vm: str) -> None:
    """Remove what an earlier run told."""
    ref = world.db.row("VM", vm)["guest_metrics"]
    if world.db.exists("VM_guest_metrics", ref):
        world.db.destroy("VM_guest_metrics", ref)
    world.db.update("VM", vm, guest_metrics=NULL)
