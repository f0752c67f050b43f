# SPDX-License-Identifier: Apache-2.0
"""The machines of a simulation: which host of which pool stands at which address.

A machine stays what it is while its host changes pools or becomes the coordinator;
clients reach it by its address, and so do other pools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.world import World


class Door(Protocol):
    """Where clients come in."""

    def cut(self) -> None:
        """End the connections that are open."""

    def shut(self) -> None:
        """End them and take no more."""

    def reopen(self) -> None:
        """Take connections again, at the same address."""

    def show(self, cert_file: Path, fingerprint: str) -> None:
        """Show another certificate to later callers, where one is shown at all."""


@dataclass
class Machine:
    """One physical host.

    :ivar number: counts from 0 through all pools
    :ivar world: the pool that it is in
    :ivar host: its reference there
    :ivar home: folder with what is the machine's own, whatever its pool
    :ivar lives: how often it went dark
    :ivar local_sessions: logins that its toolstack knows without the coordinator
    """

    number: int
    address: str
    world: World
    host: str
    home: Path
    running: bool = True
    lives: int = 0
    local_sessions: set[str] = field(default_factory=set)
    doors: list[Door] = field(default_factory=list)

    @property
    def is_supporter(self) -> bool:
        """Return whether another host of the pool is the coordinator."""
        return self.world.coordinator != self.host


@dataclass
class Machines:
    """All machines of a simulation.

    :ivar fresh: makes the pool of one that a machine is after a new installation
    """

    fresh: Callable[[Machine], World]
    all: list[Machine] = field(default_factory=list)

    def add(self, world: World, host: str, home: Path) -> Machine:
        """Write a host down."""
        address = world.db.row("host", host)["address"]
        machine = Machine(len(self.all), address, world, host, home)
        self.all.append(machine)
        return machine

    def at(self, address: str) -> Machine | None:
        """Return the machine at an address, which may carry a port."""
        for machine in self.all:
            if address in (machine.address, address_of(machine)):
                return machine
        return None

    def of(self, world: World, host: str) -> Machine | None:
        """Return the machine of a host."""
        for machine in self.all:
            if machine.world is world and machine.host == host:
                return machine
        return None

    def next_leader(self, world: World) -> Machine | None:
        """Return a running supporter of a pool."""
        for machine in self.all:
            if machine.world is world and machine.is_supporter and machine.running:
                return machine
        return None

    def worlds(self) -> list[World]:
        """Return the pools, each once."""
        found: list[World] = []
        for machine in self.all:
            if not any(machine.world is world for world in found):
                found.append(machine.world)
        return found


def address_of(machine: Machine) -> str:
    """Return a machine's address as its pool knows it now."""
    if machine.world.db.exists("host", machine.host):
        return str(machine.world.db.row("host", machine.host)["address"])
    return machine.address


def is_slave(machine: Machine) -> Failure:
    """Return what a supporter says to who should ask its coordinator."""
    world = machine.world
    row = world.db.row("host", world.coordinator)
    return Failure("HOST_IS_SLAVE", row["address"])
