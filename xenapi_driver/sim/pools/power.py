# SPDX-License-Identifier: Apache-2.0
"""What can happen to a machine: its toolstack restarts, it dies, it comes back."""

import threading
import time
from collections.abc import Callable

from xenapi_driver.sim.pools import settlement
from xenapi_driver.sim.pools.machines import Machine


def restart_toolstack(machine: Machine) -> None:
    """End the machine's connections; a coordinator forgets sessions and tasks."""
    for door in machine.doors:
        door.cut()
    machine.local_sessions.clear()
    _note_start(machine, "agent_start_time")
    _enable(machine)
    if not machine.is_supporter:
        machine.world.forget_memory()


def _note_start(machine: Machine, *keys: str) -> None:
    db = machine.world.db
    with db.changed:
        old = db.row("host", machine.host)["other_config"]
        stamps = dict.fromkeys(keys, f"{time.time():.0f}.")
        db.update("host", machine.host, other_config={**old, **stamps})


def _enable(machine: Machine) -> None:
    """Let a toolstack that starts take guests, unless somebody said it should not."""
    world = machine.world
    if machine.host not in world.stay_disabled | world.going:
        world.db.update("host", machine.host, enabled=True)


def _set_live(machine: Machine, live: bool) -> None:
    db = machine.world.db
    with db.changed:
        if db.exists("host", machine.host):
            metrics = db.row("host", machine.host)["metrics"]
            db.update("host_metrics", metrics, live=live)


def off(machine: Machine, told: bool = False) -> None:
    """Let the machine go dark. Its pool goes on believing in its guests.

    :param told: it was shut down, so that the pool knows; else the pool learns of it
        ``Behaviour.dead_after`` seconds later, when too many heartbeats are missing
    """
    if not machine.running:
        return
    machine.running = False
    with machine.world.db.changed:
        machine.world.dark.add(machine.host)
        machine.world.db.changed.notify_all()
    machine.lives += 1
    for door in machine.doors:
        door.shut()
    machine.local_sessions.clear()
    after = machine.world.behaviour.dead_after
    if told or after <= 0:
        _set_live(machine, False)
        return
    waiting = threading.Timer(after, _miss, (machine, machine.lives))
    waiting.daemon = True
    waiting.start()


def _miss(machine: Machine, life: int) -> None:
    """Write down that the machine is dead, unless it was started meanwhile."""
    if not machine.running and machine.lives == life:
        _set_live(machine, False)


def on(machine: Machine) -> None:
    """Let it start again; its guests are found halted."""
    if machine.running or machine.world.closing.is_set():
        return
    db = machine.world.db
    if db.exists("host", machine.host):
        settlement.bury_guests(machine.world, machine.host)
        _set_live(machine, True)
        _note_start(machine, "boot_time", "agent_start_time")
        machine.world.going.discard(machine.host)
        _enable(machine)
        if not machine.is_supporter:
            machine.world.forget_memory()
    machine.running = True
    machine.world.dark.discard(machine.host)
    for door in machine.doors:
        door.reopen()


def find(machine: Machine) -> None:
    """Take up a machine after a restart of the simulation: one that was off is on."""
    db = machine.world.db
    with db.changed:
        if not db.exists("host", machine.host):
            return
        metrics = db.row("host", machine.host)["metrics"]
        machine.running = bool(db.row("host_metrics", metrics)["live"])
    on(machine)


def lead(machine: Machine) -> None:
    """Make the machine its pool's coordinator; all clients have to come again."""
    world = machine.world
    if not machine.is_supporter:
        return
    old = settlement.machines_of(world).of(world, world.coordinator)
    world.make_coordinator(machine.host)
    for one in (machine, old):
        for door in one.doors if one else ():
            door.cut()


EVENTS: dict[str, Callable[[Machine], None]] = {
    "die": off,
    "start": on,
    "restart": restart_toolstack,
    "lead": lead,
}
