# SPDX-License-Identifier: Apache-2.0
"""The simulated XAPI hosts as a whole: pools, their machines, and the doors."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import XenAPI

from xenapi_driver.sim import catalogue, inventory, schema
from xenapi_driver.sim.dispatch import Dispatcher, Requests
from xenapi_driver.sim.dom0 import SR_MOUNT, Dom0, find_dom0_python
from xenapi_driver.sim.doors import admin, in_process
from xenapi_driver.sim.doors.rpc import Peer, Rpc
from xenapi_driver.sim.doors.server import Server, UnixServer
from xenapi_driver.sim.doors.site import Site
from xenapi_driver.sim.failure import ConnectionCut, Failure
from xenapi_driver.sim.faults import Faults
from xenapi_driver.sim.messages import COMPUTED, Place
from xenapi_driver.sim.pools import power, supporter
from xenapi_driver.sim.pools.machines import Machine, Machines
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.request_log import RequestLog, outcome_of
from xenapi_driver.sim.start import dom0_inventory, identity
from xenapi_driver.sim.start.furnish import furnish
from xenapi_driver.sim.start.inventory_file import (
    InventoryRefused,
    PoolPlan,
    with_counts,
)
from xenapi_driver.sim.start.start_of_day import GIB, Hardware, populate
from xenapi_driver.sim.state.keeper import Keeper
from xenapi_driver.sim.state.ledger import Ledger
from xenapi_driver.sim.storage.collector import Collector
from xenapi_driver.sim.vms import guest_store
from xenapi_driver.sim.world import Behaviour, World

AnyDoor = TypeVar("AnyDoor", Server, UnixServer)


@lru_cache(maxsize=1)
def _found_python() -> str:
    """Return the interpreter of the plugins; looking for it starts processes."""
    return find_dom0_python()


@dataclass(frozen=True)
class Setup:
    """What a caller may choose; each has a default that fits most tests.

    :ivar dom0_python: interpreter that runs the plugins; None: one that is found
    :ivar hosts: number of hosts in each pool
    :ivar pools: number of pools
    :ivar addresses: of all hosts, pool by pool; made up where there are too few
    :ivar sr_size_bytes: size of each host's local SR, unless ``hardware`` is given
    :ivar hardware: what each host has
    :ivar plans: what an inventory file names; pools and hosts beyond it are fresh
    :ivar xenstore: socket of a real xenstored for the first host; None: one of our own
    :ivar compute_vm: whether a VM for nova-compute runs there from the start
    :ivar log: where requests and tasks are written down
    :ivar behaviour: choices where real hosts differ
    :ivar keep: keep the state in the folder, and go on from what is kept there; then
        the other choices only count the first time
    """

    dom0_python: str | None = None
    username: str = "root"
    password: str = "secret"  # noqa: S105 (documented default of the tests)
    hosts: int = 1
    pools: int = 1
    addresses: tuple[str, ...] = ()
    sr_size_bytes: int = 100 * GIB
    hardware: Hardware | None = None
    plans: tuple[PoolPlan, ...] = ()
    xenstore: Path | None = None
    compute_vm: bool = True
    behaviour: Behaviour = field(default_factory=Behaviour)
    log: RequestLog = field(default_factory=RequestLog)
    keep: bool = False


class Simulator:
    """Pools that live in this process; most questions are about the first.

    :param state_dir: where disks and dom0s are kept
    :param plugins_dir: dom0 plugins to install; None: none
    :param choices: fields of :class:`Setup`
    :raises InventoryRefused: the plans ask for what a host refuses
    :raises StateRefused: with ``keep``, the folder cannot be used
    """

    def __init__(
        self, state_dir: Path, *, plugins_dir: Path | None = None, **choices: Any
    ) -> None:
        if not catalogue.MODULES:
            raise RuntimeError("The classes of the simulator were not found.")
        self._setup = Setup(**choices)
        self._python = self._setup.dom0_python or _found_python()
        self._state, self._plugins = Path(state_dir), plugins_dir
        self._requests = Requests()
        self._faults = Faults(self._befall)
        self._servers: list[Server | UnixServer] = []
        self._collectors: list[Collector] = []
        self._dispatchers: dict[int, Dispatcher] = {}
        self.machines = Machines(self._reinstall)
        self._keeper: Keeper | None = None
        if self._setup.keep:
            self._keeper = Keeper(Ledger(self._state), self.machines)
        if self._keeper is None or self._keeper.is_new:
            self._install()
        else:
            self._keeper.restore(self._blank, self._dom0)
            for world in self.machines.worlds():
                guest_store.go_on(world)
            self._keeper.settle()
            for machine in self.machines.all:
                power.find(machine)
        self.world = self.machines.all[0].world

    def _install(self) -> None:
        """Make all pools as they are after a fresh installation, and furnish them."""
        if self._keeper is not None:
            self._keeper.clear()
        setup = self._setup
        plans = with_counts(setup.plans, setup.pools, setup.hosts)
        first = 0
        for number, plan in enumerate(plans):
            place = self._state if number == 0 else self._state / f"pool-{number + 1}"
            world = self._pool(place, first, len(plan.hosts))
            first += len(plan.hosts)
            for host in world.db.refs("host"):
                count = len(self.machines.all)
                home = self._state / f"host-{count}" if count else self._state
                self.machines.add(world, host, home)
        for world in self.machines.worlds():
            guest_store.go_on(world)
        self.world = self.machines.all[0].world
        if setup.plans:
            self._furnish(plans)
        if self._keeper is not None:
            for world in self.machines.worlds():
                self._keeper.adopt(world)
            self._keeper.begin()

    def _furnish(self, plans: tuple[PoolPlan, ...]) -> None:
        """Put into the pools what the inventory names."""
        try:
            for number, world in enumerate(self.machines.worlds()):
                where = f"pools[{number}]" if len(plans) > 1 else ""
                furnish(world, Dispatcher(world).execute, plans[number], where)
        except InventoryRefused:
            self.close()
            raise

    def _dom0(self, root: Path) -> Dom0:
        """Return a dom0; the very first one may have a real xenstore."""
        is_first = root.resolve() == (self._state / "dom0").resolve()
        xenstore = self._setup.xenstore if is_first else None
        dom0 = Dom0(root, self._plugins, self._python, xenstore)
        dom0.open_door = partial(self._open_local_door, dom0)
        return dom0

    def _open_local_door(self, dom0: Dom0, path: Path) -> None:
        """Open the socket of XAPI that the programs in a dom0 find there."""
        for machine in self.machines.all:
            if machine.world.dom0s.get(machine.host, machine.world.dom0) is dom0:
                self.serve_unix(path, machine=machine.number)

    def _blank(self, root: Path) -> World:
        """Return an empty pool around the dom0 at ``root``."""
        setup = self._setup
        world = World(
            Registry(schema.load(), COMPUTED),
            self._dom0(root),
            setup.username,
            setup.password,
            setup.behaviour,
            self._faults,
            machines=self.machines,
            log=setup.log.note,
        )
        collector = Collector(world)
        world.collect = collector.kick
        self._collectors.append(collector)
        return world

    def _pool(self, place: Path, first: int, count: int) -> World:
        """Return a freshly installed pool; its hosts count from ``first``."""
        setup, world = self._setup, self._blank(place / "dom0")
        world.first_number = first
        world.addresses = setup.addresses[first : first + count]
        hardware = setup.hardware or Hardware(sr_size=setup.sr_size_bytes)
        run = world.dom0.root / "run"
        populate(world, run, hardware, count, setup.compute_vm)
        for number, host in enumerate(world.db.refs("host")):
            if number:
                world.dom0s[host] = self._dom0_beside(world.dom0, number + 1)
            dom0_inventory.write(world, host)
        return world

    def _dom0_beside(self, first: Dom0, number: int) -> Dom0:
        """Return the dom0 of another host of a pool; they share the SRs' folder."""
        root = first.root.with_name(f"dom0-{number}")
        mount = root / SR_MOUNT
        mount.parent.mkdir(parents=True, exist_ok=True)
        if not mount.is_symlink():
            mount.symlink_to(Path("../..", first.root.name, SR_MOUNT))
        return self._dom0(root)

    def _reinstall(self, machine: Machine) -> World:
        """Return the pool of one that a machine is after a new installation."""
        attempt = len(list(self._state.glob(f"machine-{machine.number}-*"))) + 1
        place = self._state / f"machine-{machine.number}-{attempt}"
        world = self._pool(place, machine.number, 1)
        guest_store.go_on(world)
        if self._keeper is not None:
            self._keeper.adopt(world)
        return world

    def pools(self) -> list[list[Machine]]:
        """Return the machines of each pool, its coordinator first."""
        return [
            sorted(
                (one for one in self.machines.all if one.world is world),
                key=lambda one: (one.is_supporter, one.number),
            )
            for world in self.machines.worlds()
        ]

    # doors

    def door(self, machine: int = 0) -> Callable[[bytes], bytes]:
        """Return what answers XML-RPC requests to a machine.

        :raises wire.Malformed: (the function returned) the body is no request
        :raises ConnectionError: (it too) the host is dead, or a rule cut the connection
        """
        return self._rpc(self.machines.all[machine]).xml

    def handle(self, body: bytes) -> bytes:
        """Answer one XML-RPC request to the first machine, as :meth:`door` says."""
        return self._rpc(self.machines.all[0]).xml(body)

    def handle_json(self, body: bytes) -> bytes:
        """Answer one JSON-RPC request, version 1 or 2, as :meth:`handle` does."""
        return self._rpc(self.machines.all[0]).json(body)

    def session(self, machine: int = 0) -> XenAPI.Session:
        """Return the XenAPI package's Session on a machine, without a connection."""
        return in_process.open_session(self.door(machine))

    def _rpc(self, machine: Machine) -> Rpc:
        return Rpc(partial(self._execute, machine))

    def _execute(
        self, machine: Machine, peer: Peer, method: str, params: list[Any]
    ) -> Any:
        """Carry out a call and write down how it ended."""
        log = self._setup.log
        if not log:
            return self._carry_out(machine, peer, method, params)
        begin, outcome = time.monotonic(), "cut"
        try:
            value = self._carry_out(machine, peer, method, params)
            outcome = "ok"
        except Failure as failure:
            outcome = outcome_of(method, failure)
            raise
        finally:
            log.request(peer.name, method, time.monotonic() - begin, outcome)
        return value

    def _carry_out(
        self, machine: Machine, peer: Peer, method: str, params: list[Any]
    ) -> Any:
        if not machine.running:
            raise ConnectionCut("The host is off.")
        world = machine.world
        if world.behaviour.latency:
            time.sleep(world.behaviour.latency)
        place = Place(machine.host, peer.trusted, peer.labels)
        execute = partial(self._dispatcher(world).execute, place=place)
        if machine.is_supporter:
            return supporter.answer(machine, method, params, execute, peer.trusted)
        return execute(method, params)

    def _dispatcher(self, world: World) -> Dispatcher:
        """Return what carries out the calls of a pool; it keeps what it derived."""
        known = self._dispatchers.get(id(world))
        if known is None:
            known = self._dispatchers[id(world)] = Dispatcher(world, self._requests)
        return known

    def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        admin: bool = False,
        machine: int = 0,
    ) -> Server:
        """Open a door on TCP; port 0 takes a free one.

        :param admin: also answer /_sim/..., which asks for no password
        :param machine: number of the machine behind the door
        """
        behind = self.machines.all[machine]
        if tls:
            identity.establish(behind, host)
        certificates = behind.home if tls else None
        server = Server(self._site(behind, admin), host, port, certificates)
        return self._opened(server, behind)

    def serve_unix(
        self, path: Path, admin: bool = False, machine: int = 0
    ) -> UnixServer:
        """Open a door on a unix socket: who comes through needs no password."""
        behind = self.machines.all[machine]
        return self._opened(UnixServer(self._site(behind, admin), path), behind)

    def _site(self, machine: Machine, admin: bool) -> Site:
        return Site(
            machine,
            self._rpc(machine),
            self.admin if admin else None,
            self._setup.log,
        )

    def _opened(self, server: AnyDoor, machine: Machine) -> AnyDoor:
        machine.doors.append(server)
        self._servers.append(server)
        return server

    def admin(self, target: str, body: bytes | None) -> Any:
        """Answer a request of the test door, as :func:`admin.answer` does."""
        return admin.answer(self, target, body)

    def act(self, thing: str, /, **fields: Any) -> Any:
        """Bring something about, as the test door does: ``act("host", what="die")``.

        :param thing: ``guest``, ``host``, ``sr`` or ``rules``, see :mod:`admin`
        :raises ValueError, TypeError, LookupError: it makes no sense
        """
        return admin.act(self, thing, fields)

    def _befall(self, what: str, world: World) -> None:
        """Let something happen to a pool: to its coordinator, or a new one leads."""
        machine = self.machines.of(world, world.coordinator)
        if what == "lead":
            machine = self.machines.next_leader(world)
        if machine is not None:
            power.EVENTS[what](machine)

    def close_doors(self) -> None:
        """Close all doors but the one in this process."""
        for machine in self.machines.all:
            machine.doors.clear()
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Close all doors, end waiting calls and plugin processes."""
        worlds = [self.world, *self.machines.worlds()]
        for world in worlds:
            world.closing.set()
            world.alarms.close()
            with world.db.changed:
                world.db.changed.notify_all()
        self._faults.clear()
        self.close_doors()
        for collector in self._collectors:
            collector.close()
        for world in worlds:
            for dom0 in (world.dom0, *world.dom0s.values()):
                dom0.close()
        if self._keeper is not None:
            self._keeper.close()

    # what tests look at

    def inventory(self) -> dict[str, Any]:
        """Return a summary of what exists, once the garbage is collected."""
        self.settle_storage()
        return inventory.inventory(self.world)

    def settle_storage(self, timeout: float = 30.0) -> bool:
        """Wait until no garbage of any SR is left; return whether so in time."""
        return all(collector.wait(timeout) for collector in self._collectors)

    @property
    def faults(self) -> Faults:
        """Return the rules that make calls fail."""
        return self._faults

    @property
    def requests(self) -> Requests:
        """Return the counters of calls."""
        return self._requests

    @property
    def default_sr_uuid(self) -> str:
        """Return the uuid of the pool's default SR."""
        return self._uuid("SR", self._pool_row()["default_SR"])

    @property
    def sr_path(self) -> Path:
        """Return the directory of the default SR."""
        return self.world.stores[self._pool_row()["default_SR"]].path

    @property
    def compute_vm_uuid(self) -> str:
        """Return the uuid of the VM that nova-compute runs in."""
        return self._uuid("VM", self.world.compute_vm)

    @property
    def host_uuid(self) -> str:
        """Return the uuid of the coordinator."""
        return self._uuid("host", self._pool_row()["master"])

    def _pool_row(self) -> dict[str, Any]:
        return self.world.db.row("pool", self.world.db.refs("pool")[0])

    def _uuid(self, cls: str, ref: str) -> str:
        return str(self.world.db.row(cls, ref)["uuid"])
