# SPDX-License-Identifier: Apache-2.0
"""What a host answers that is not its pool's coordinator.

It sends nearly every caller to the coordinator. What is left are logins against its
own password, and what helps when the coordinator is lost.
"""

from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.pools.machines import Machine, is_slave
from xenapi_driver.sim.pools.settlement import machines_of

_LOCAL_LOGIN = "session.slave_local_login_with_password"
_WITHOUT_SESSION = ("system.listMethods", "system.isAlive")
Execute = Callable[[str, list[Any]], Any]


def answer(
    machine: Machine,
    method: str,
    params: list[Any],
    execute: Execute,
    trusted: bool = False,
) -> Any:
    """Carry out what a supporter can, through ``execute``.

    :param trusted: root on the host itself asks, for whom the supporter passes all
        else on to the coordinator
    :raises Failure: HOST_IS_SLAVE with the coordinator's address, and what
        ``execute`` raises
    """
    if method.startswith(_WITHOUT_SESSION):
        return execute(method, params)
    if method == _LOCAL_LOGIN:
        return _login(machine, params, trusted)
    session = params[0] if params and isinstance(params[0], str) else ""
    if session not in machine.local_sessions:
        if trusted and _coordinator_runs(machine):
            return execute(method, params)
        raise is_slave(machine)
    if method == "session.local_logout":
        machine.local_sessions.discard(session)
        return ""
    if method == "host.is_in_emergency_mode":
        return not _coordinator_runs(machine)
    if method == "pool.emergency_transition_to_master":
        return _take_over(machine)
    if method == "pool.emergency_reset_master":
        return _follow(machine, str(params[1]) if len(params) > 1 else "")
    raise is_slave(machine)


def _login(machine: Machine, params: list[Any], trusted: bool) -> str:
    world = machine.world
    if params[:2] != [world.username, world.password] and not trusted:
        user = str(params[0]) if params else ""
        raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
    session = world.db.new_ref()
    machine.local_sessions.add(session)
    return session


def _coordinator_runs(machine: Machine) -> bool:
    return machine.world.coordinator not in machine.world.dark


def _take_over(machine: Machine) -> str:
    """Become the coordinator; a pool in which the old one runs follows all the same."""
    world = machine.world
    old = machines_of(world).of(world, world.coordinator)
    world.make_coordinator(machine.host)
    for door in old.doors if old else ():
        door.cut()
    return ""


def _follow(machine: Machine, address: str) -> str:
    """Hear who leads now.

    :raises Failure: nobody there, another pool, or one who does not lead
    """
    leader = machines_of(machine.world).at(address)
    if leader is None or not leader.running:
        raise Failure("HOST_MASTER_CANNOT_TALK_BACK", address)
    if leader.world is not machine.world:
        raise Failure("HOST_UNKNOWN_TO_MASTER", machine.host)
    if leader.is_supporter:
        raise is_slave(leader)
    return ""
