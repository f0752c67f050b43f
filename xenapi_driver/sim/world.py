# SPDX-License-Identifier: Apache-2.0
"""What the classes of the simulated host share besides the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xenapi_driver.sim.alarms import Alarms
from xenapi_driver.sim.dom0 import Dom0
from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.faults import Faults
from xenapi_driver.sim.leases import Leases
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.storage.sr_kinds import Store

# The last second that four digits of a year can tell.
_LAST = 253402300799.0


@dataclass(frozen=True)
class Behaviour:
    """How the host and its guests behave where that is a matter of choice.

    :ivar login_delay: seconds before a wrong password is refused (5 on a real host)
    :ivar latency: seconds that each call takes longer
    :ivar agents: every guest has an agent, unless its other_config ``sim:agent`` is
        ``none``; False: only guests with xenstore_data ``vm-data/sim-agent`` have
    :ivar session_timeout: seconds without a call after which a session is gone
    :ivar agent_delay: seconds after a boot until a guest's agent makes itself known;
        those with ``vm-data/sim-agent`` take none
    :ivar shutdown_timeout: seconds that a clean shutdown waits for a silent guest
        (1200 on a real host)
    :ivar boot_time: seconds that a host needs to start
    :ivar dead_after: seconds without heartbeats until a host counts as dead
    :ivar busy_timeout: seconds that a call waits for a VM that does something else
    :ivar operation_delay: seconds that an operation on a VM lasts at least
    :ivar keeps_own_tasks: the task that a host makes for a transfer which named none
        stays for a while after its end, as all tasks do; False: it goes at once
    :ivar block_device_dir: where disks that are plugged into the compute VM appear as
        block devices of this machine; None: nowhere
    """

    login_delay: float = 0.0
    latency: float = 0.0
    agents: bool = True
    session_timeout: float = 24 * 3600.0
    agent_delay: float = 0.0
    shutdown_timeout: float = 1.0
    boot_time: float = 1.0
    dead_after: float = 600.0
    busy_timeout: float = 7200.0
    operation_delay: float = 0.0
    keeps_own_tasks: bool = True
    block_device_dir: Path | None = None


class Neighbourhood(Protocol):
    """Who else is there."""

    def worlds(self) -> list[World]:
        """Return all pools."""


@dataclass
class World:
    """One simulated pool.

    :ivar stores: SR reference to its files
    :ivar media: uuid of each SR that was ever made to its kind and what of its
        device_config says where it is; a probe finds it there
    :ivar sr_size: bytes of an SR that is made later
    :ivar held_disks: uuids of disks whose files must stay as they are for a while
    :ivar before_making: told of each file that is about to be made for a record, so
        that it goes with the record if the process is killed
    :ivar collect: has the storage manager's garbage collector look at an SR
    :ivar bridges: host reference to the bridges that exist there, but are not made
        by a managed network
    :ivar clocks: seconds by which somebody set a host's clock forward
    :ivar nics: host reference to the NICs in it, device name to hardware address
    :ivar first_number: number of the pool's first host, counted through all pools
    :ivar addresses: where the hosts are reached; made up where there are too few
    :ivar machines: who stands where, other pools included
    :ivar dom0s: host reference to its dom0, where that is not ``dom0``
    :ivar queues: session to what it registered for, see class event
    :ivar events_told: how many events left those queues so far
    :ivar dark: references of hosts that do not answer
    :ivar sending: hosts that send a disk elsewhere, one entry for each
    :ivar stay_disabled: hosts that are not enabled when they start
    :ivar going: hosts that are about to go down
    :ivar recorded: VM or host reference to the data sources that somebody chose to
        record, or not to record
    :ivar forgotten: VM or host reference and data source to the time, in seconds
        since the epoch, before which nothing is known
    :ivar log: takes a line on what goes on
    :ivar cancelled: references of tasks that somebody cancelled
    :ivar own_tasks: those that the host itself made for transfers
    :ivar alarms: what happens by itself later
    :ivar leases: which VIF has which of the addresses for guests
    :ivar agent_calls: when which VM's agent was called last, monotonic seconds
    """

    db: Registry
    dom0: Dom0
    username: str
    password: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    faults: Faults = field(default_factory=Faults)
    stores: dict[str, Store] = field(default_factory=dict)
    media: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    sr_size: int = 100 * 1024**3
    held_disks: set[str] = field(default_factory=set)
    before_making: Callable[[Path], None] = field(default=lambda path: None)
    collect: Callable[[str], None] = field(default=lambda sr: None)
    bridges: dict[str, set[str]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    nics: dict[str, dict[str, str]] = field(default_factory=dict)
    dom0s: dict[str, Dom0] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    own_tasks: set[str] = field(default_factory=set)
    queues: dict[str, Any] = field(default_factory=dict)
    events_told: int = 0
    recorded: dict[str, dict[str, bool]] = field(default_factory=dict)
    forgotten: dict[tuple[str, str], float] = field(default_factory=dict)
    dark: set[str] = field(default_factory=set)
    sending: list[str] = field(default_factory=list)
    stay_disabled: set[str] = field(default_factory=set)
    going: set[str] = field(default_factory=set)
    alarms: Alarms = field(default_factory=Alarms)
    leases: Leases = field(default_factory=Leases)
    agent_calls: dict[str, float] = field(default_factory=dict)
    log: Callable[[str], None] = field(default=lambda line: None)
    closing: threading.Event = field(default_factory=threading.Event)
    compute_vm: str = ""
    next_domid: int = 1
    next_bridge: int = 1
    first_number: int = 0
    addresses: tuple[str, ...] = ()
    machines: Neighbourhood | None = None

    @property
    def coordinator(self) -> str:
        """Return the reference of the host that leads the pool."""
        pool = self.db.refs("pool")[0]
        return str(self.db.row("pool", pool)["master"])

    def make_coordinator(self, host: str) -> None:
        """Let a host lead; sessions and tasks are what the old one alone knew."""
        with self.db.changed:
            self.db.update("pool", self.db.refs("pool")[0], master=host)
            self.forget_memory()

    def forget_memory(self) -> None:
        """Drop what no database keeps: sessions, tasks."""
        with self.db.changed:
            for cls in ("task", "session"):
                for ref in self.db.refs(cls):
                    if cls == "task":
                        self.cancelled.add(ref)
                    self.db.destroy(cls, ref)
            self.queues.clear()

    def address(self, number: int) -> str:
        """Return the management address of the pool's host number ``number``."""
        if number < len(self.addresses):
            return self.addresses[number]
        return f"192.168.66.{10 + self.first_number + number}"

    def neighbours(self) -> list[World]:
        """Return all pools that can be reached, this one first."""
        found = [] if self.machines is None else self.machines.worlds()
        return [self, *(world for world in found if world is not self)]

    def dom0_of(self, host: str) -> Dom0:
        """Return the dom0 of a host."""
        return self.dom0s.get(host, self.dom0)

    def take_domid(self) -> int:
        """Return a domain id that was not used before."""
        with self.db.changed:
            self.next_domid += 1
            return self.next_domid - 1

    def take_bridge(self) -> int:
        """Return a number for a bridge that was not used before."""
        with self.db.changed:
            self.next_bridge += 1
            return self.next_bridge - 1


def stamp(moment: float) -> Timestamp:
    """Return a time, in seconds of the epoch, as XAPI writes it.

    What is later than the year 9999 is written as its end.
    """
    moment = min(moment, _LAST)
    return Timestamp(time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(moment)))


def now() -> Timestamp:
    """Return the time as XAPI writes it."""
    return stamp(time.time())
