# SPDX-License-Identifier: Apache-2.0
"""Class pool: hosts that come, go and take the lead."""

from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import forwarding, power, settlement
from xenapi_driver.sim.pools.machines import Machine, is_slave
from xenapi_driver.sim.world import World


def _coordinator_at(call: Call, address: str) -> Machine:
    """Return the machine there.

    :raises Failure: nobody there, or a supporter
    """
    machine = settlement.machines_of(call.world).at(address)
    if machine is None or not machine.running:
        raise internal_error("Connection failed: no route to host.")
    if machine.is_supporter:
        raise is_slave(machine)
    return machine


@message("pool.join", "pool.join_force", blocking=True)
def join(call: Call, address: str, username: str, password: str) -> None:
    """Leave this pool of one for the one at ``address``; its toolstack restarts."""
    own = call.world
    here = address in ("127.0.0.1", "localhost")
    if here and settlement.machines_of(own).at(address) is None:
        address = own.db.row("host", own.coordinator)["address"]
    target = _coordinator_at(call, address)
    world = target.world
    if (username, password) != (world.username, world.password):
        raise Failure(
            "SESSION_AUTHENTICATION_FAILED", username, "Authentication failure"
        )
    if len(call.db.refs("host")) > 1:
        raise Failure("JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS")
    if world is own:
        raise Failure("HOST_ITS_OWN_SLAVE")
    _check_joiner(call)
    if _kind(own) != _kind(world):
        raise Failure("HOSTS_NOT_COMPATIBLE")
    settlement.join(own, world)


def _kind(world: World) -> tuple[str, ...]:
    """Return what hosts of one pool have in common."""
    row = world.db.row("host", world.coordinator)
    software = row["software_version"]
    versions = ("product_brand", "product_version", "xapi_build")
    return (
        row["cpu_info"].get("vendor", ""),
        *(software.get(name, "") for name in versions),
    )


def _check_joiner(call: Call) -> None:
    db = call.db
    for _, row in db.rows("VM"):
        if row["is_control_domain"]:
            continue
        if row["current_operations"]:
            raise Failure("JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS")
        if row["power_state"] in ("Running", "Paused"):
            raise Failure("JOINING_HOST_CANNOT_HAVE_RUNNING_VMS")
    if any(row["shared"] and row["type"] != "iso" for _, row in db.rows("SR")):
        raise Failure("JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS")
    if db.refs("Bond"):
        raise Failure("POOL_JOINING_HOST_HAS_BONDS")
    if db.refs("VLAN"):
        raise Failure("POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS")
    if db.refs("tunnel"):
        raise Failure("POOL_JOINING_HOST_HAS_TUNNELS")


@message("pool.eject", blocking=True, missing="HOST_OFFLINE")
def eject(call: Call, host: str) -> None:
    """Send a host away: it loses its local disks and is a pool of its own again."""
    world = call.world
    if host == world.coordinator:
        raise internal_error("Xapi_pool.Cannot_eject_master")
    with call.db.changed:
        _require_empty(call, host)
        settlement.eject(world, host)


def _require_empty(call: Call, host: str) -> None:
    for vm in call.db.row("host", host)["resident_VMs"]:
        if not call.db.row("VM", vm)["is_control_domain"]:
            raise Failure("HOST_HAS_RESIDENT_VMS", host)


@message("pool.designate_new_master")
def designate_new_master(call: Call, host: str) -> None:
    """Let another host lead; whoever is logged in has to do so again, there."""
    if host == call.world.coordinator:
        return
    forwarding.require_answer(call.world, host)
    call.world.make_coordinator(host)


@message("pool.is_slave", missing="HOST_OFFLINE")
def is_supporter(call: Call, host: str) -> bool:
    """Return whether the host is no coordinator."""
    return host != call.world.coordinator


@message("pool.emergency_transition_to_master", "pool.emergency_reset_master")
def emergency(call: Call, *arguments: str) -> None:
    """Do nothing on a coordinator."""


@message("pool.recover_slaves")
def recover_slaves(call: Call) -> list[str]:
    """Return the hosts that follow this coordinator now."""
    world = call.world
    others = [host for host in call.db.refs("host") if host != world.coordinator]
    return [host for host in others if forwarding.is_alive(world, host)]


@message("host.is_in_emergency_mode")
def is_in_emergency_mode(call: Call) -> bool:
    """Return False: who reaches a coordinator meets no emergency."""
    return False


@message("host.declare_dead")
def declare_dead(call: Call, host: str) -> None:
    """Write a host down as dead that does not answer, and its guests as halted."""
    if forwarding.is_alive(call.world, host):
        raise Failure("HOST_IS_LIVE", host)
    settlement.bury_guests(call.world, host)
    call.db.update("host_metrics", call.db.row("host", host)["metrics"], live=False)


@message("host.destroy")
def destroy(call: Call, host: str) -> None:
    """Forget a host that is gone for good."""
    if forwarding.is_alive(call.world, host):
        raise Failure("HOST_IS_LIVE", host)
    _require_empty(call, host)
    settlement.forget(call.world, host)


@message("host.power_on")
def power_on(call: Call, host: str) -> None:
    """Start a host that is off, if a way to do that is configured."""
    if forwarding.counts_as_live(call.db, host):
        raise Failure("HOST_IS_LIVE", host)
    if call.db.row("host", host)["power_on_mode"] == "":
        raise Failure("HOST_POWER_ON_MODE_DISABLED")
    machine = settlement.machines_of(call.world).of(call.world, host)
    if machine is not None:
        power.on(machine)
