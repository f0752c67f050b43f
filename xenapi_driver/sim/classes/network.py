# SPDX-License-Identifier: Apache-2.0
"""Class network: bridges that guests are put on."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World

# A client may not give a bridge such a name ("XAPI today", section 13).
_RESERVED = ("xen", "xapi", "vif", "tap", "eth")
_MAX_NAME = 15


def require_managed(db: Registry, ref: str) -> None:
    """Refuse a network whose bridge is somebody else's.

    :raises Failure: NETWORK_UNMANAGED
    """
    if not db.row("network", ref)["managed"]:
        raise Failure("NETWORK_UNMANAGED", ref)


@message("network.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Make a network; one without a bridge gets the next xapi<n>."""
    bridge = record["bridge"]
    if bridge == "":
        record["bridge"] = _free_bridge(call.world)
    elif len(bridge) > _MAX_NAME or bridge.startswith(_RESERVED):
        raise Failure("INVALID_VALUE", "bridge", bridge)
    elif call.db.find("network", bridge=bridge):
        raise Failure("BRIDGE_NAME_EXISTS", bridge)
    return call.db.create("network", record)


def _free_bridge(world: World) -> str:
    """Return the next name; a running host never gives one out twice."""
    while True:
        name = f"xapi{world.take_bridge()}"
        if not world.db.find("network", bridge=name):
            return name


@message("network.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a network that nothing is on."""
    row = call.db.row("network", ref)
    if _is_internal(row):
        raise Failure("CANNOT_DESTROY_SYSTEM_NETWORK", ref)
    plugged = [
        vif for vif in row["VIFs"] if call.db.row("VIF", vif)["currently_attached"]
    ]
    if plugged:
        raise Failure("NETWORK_CONTAINS_VIF", *plugged)
    if row["PIFs"]:
        raise Failure("NETWORK_CONTAINS_PIF", *row["PIFs"])
    for vif in row["VIFs"]:
        call.db.destroy("VIF", vif)
    call.db.destroy("network", ref)


@message("network.set_default_locking_mode")
def set_default_locking_mode(call: Call, ref: str, value: str) -> None:
    """Change what VIFs without a mode of their own do; none may be plugged."""
    for vif in call.db.row("network", ref)["VIFs"]:
        if call.db.row("VIF", vif)["currently_attached"]:
            raise Failure("VIF_IN_USE", ref, vif)
    call.db.update("network", ref, default_locking_mode=value)


@message("network.add_purpose")
def add_purpose(call: Call, ref: str, value: str) -> None:
    """Add a purpose."""
    old = call.db.row("network", ref)["purpose"]
    if {"nbd", "insecure_nbd"} <= {value, *old}:
        other = "nbd" if value == "insecure_nbd" else "insecure_nbd"
        raise Failure("NETWORK_INCOMPATIBLE_PURPOSES", value, other)
    call.db.update("network", ref, purpose=sorted({*old, value}))


@message("network.remove_purpose")
def remove_purpose(call: Call, ref: str, value: str) -> None:
    """Remove a purpose; one that is not there is no fault."""
    old = call.db.row("network", ref)["purpose"]
    call.db.update("network", ref, purpose=[item for item in old if item != value])


@message("network.attach")
def attach(call: Call, ref: str, host: str) -> None:
    """Bring the bridge up on a host."""
    call.db.row("host", host)
    assert_available(call.world, ref, host)


def assert_available(world: World, ref: str, host: str) -> None:
    """Refuse an unmanaged network whose bridge the host does not have.

    :raises Failure: BRIDGE_NOT_AVAILABLE
    """
    row = world.db.row("network", ref)
    if not row["managed"] and row["bridge"] not in world.bridges.get(host, ()):
        raise Failure("BRIDGE_NOT_AVAILABLE", row["bridge"])


def assert_reachable(world: World, ref: str, host: str, vm: str) -> None:
    """Refuse a network that a guest cannot have on the host.

    One without NICs lives on the host where it is in use, and nowhere else.

    :raises Failure: VM_REQUIRES_NETWORK, BRIDGE_NOT_AVAILABLE
    """
    assert_available(world, ref, host)
    db = world.db
    row = db.row("network", ref)
    if not row["managed"] or _is_internal(row):
        return
    if row["PIFs"]:
        reached = any(db.row("PIF", pif)["host"] == host for pif in row["PIFs"])
    else:
        reached = all(used == host for used in _hosts_using(db, row))
    if not reached:
        raise Failure("VM_REQUIRES_NETWORK", vm, ref)


def _is_internal(row: Row) -> bool:
    name = "is_host_internal_management_network"
    return bool(row["other_config"].get(name) == "true")


def _hosts_using(db: Registry, row: Row) -> set[str]:
    """Return the hosts on which a guest is plugged into the network."""
    found = set()
    for vif in row["VIFs"]:
        card = db.row("VIF", vif)
        if card["currently_attached"]:
            found.add(db.row("VM", card["VM"])["resident_on"])
    return found - {NULL}
