# SPDX-License-Identifier: Apache-2.0
"""The simulated XAPI host as a whole."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from xenapi_driver.sim import catalogue, inventory, schema, wire
from xenapi_driver.sim.dispatch import Dispatcher, Requests
from xenapi_driver.sim.dom0 import Dom0, find_dom0_python
from xenapi_driver.sim.doors.exchange import OneHost
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.faults import Faults
from xenapi_driver.sim.messages import COMPUTED
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.server import Doors, Server
from xenapi_driver.sim.start_of_day import GIB, Hardware, populate
from xenapi_driver.sim.world import Behaviour, World

_RAW_ANSWERS = ("system.listMethods", "system.isAlive")


@lru_cache(maxsize=1)
def _found_python() -> str:
    """Return the interpreter of the plugins; looking for it starts processes."""
    return find_dom0_python()


@dataclass(frozen=True)
class Setup:
    """What a caller may choose; each has a default that fits most tests.

    :ivar dom0_python: interpreter that runs the plugins; None: one that is found
    :ivar hosts: number of hosts in the pool
    :ivar sr_size_bytes: size of each host's local SR, unless ``hardware`` is given
    :ivar hardware: what each host has
    :ivar compute_vm: whether a VM for nova-compute runs there from the start
    :ivar behaviour: choices where real hosts differ
    """

    dom0_python: str | None = None
    username: str = "root"
    password: str = "secret"  # noqa: S105 (documented default of the tests)
    hosts: int = 1
    sr_size_bytes: int = 100 * GIB
    hardware: Hardware | None = None
    compute_vm: bool = True
    behaviour: Behaviour = field(default_factory=Behaviour)


class Simulator:
    """A pool that lives in this process.

    :param state_dir: where its disks and its dom0 are kept
    :param plugins_dir: dom0 plugins to install; None: none
    :param choices: fields of :class:`Setup`
    """

    def __init__(
        self, state_dir: Path, *, plugins_dir: Path | None = None, **choices: Any
    ) -> None:
        if not catalogue.MODULES:
            raise RuntimeError("The classes of the simulator were not found.")
        setup = Setup(**choices)
        python = setup.dom0_python or _found_python()
        dom0 = Dom0(Path(state_dir) / "dom0", plugins_dir, python)
        registry = Registry(schema.load(), COMPUTED)
        self.world = World(
            registry, dom0, setup.username, setup.password, setup.behaviour
        )
        hardware = setup.hardware or Hardware(sr_size=setup.sr_size_bytes)
        run = dom0.root / "run"
        populate(self.world, run, hardware, setup.hosts, setup.compute_vm)
        self._dispatcher = Dispatcher(self.world)
        self._servers: list[Server] = []

    # doors

    def handle(self, body: bytes) -> bytes:
        """Answer one XML-RPC request.

        :raises wire.Malformed: the body is no request
        """
        method, params = wire.decode_xml(body)
        try:
            value = self._dispatcher.execute(method, params)
        except Failure as failure:
            return wire.encode_xml(wire.failure(failure.description))
        if method.startswith(_RAW_ANSWERS):
            return wire.encode_xml(value)
        return wire.encode_xml(wire.success(value))

    def handle_json(self, body: bytes) -> bytes:
        """Answer one JSON-RPC request, version 1 or 2.

        :raises wire.Malformed: the body is no request
        """
        method, params, number, v2 = wire.decode_json(body)
        try:
            value = self._dispatcher.execute(method, params)
        except Failure as failure:
            return wire.encode_json(None, failure.description, number, v2)
        return wire.encode_json(value, None, number, v2)

    def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        admin: bool = False,
    ) -> Server:
        """Open a door on TCP; port 0 takes a free one.

        :param admin: also answer /sim/..., which asks for no password
        """
        doors = Doors(
            self.handle,
            self.handle_json,
            OneHost(self.world),
            self.admin if admin else None,
        )
        certificates = self.world.dom0.root.parent if tls else None
        server = Server(doors, host, port, certificates)
        self._servers.append(server)
        return server

    def admin(self, path: str, body: dict[str, Any] | None) -> Any:
        """Answer a request of the test door; None: no such path."""
        if body is None:
            answers = {
                "/sim/requests": self._request_counts,
                "/sim/inventory": self.inventory,
                "/sim/ports": lambda: inventory.plugged_ports(self.world),
            }
            return answers[path]() if path in answers else None
        if path == "/sim/faults":
            self.faults.add(**body)
            return {}
        return None

    def _request_counts(self) -> dict[str, Any]:
        return {
            "total": self.requests.total,
            "by_method": self.requests.by_method,
            "polls": self.requests.polls,
        }

    def close(self) -> None:
        """Close all doors, end waiting calls and plugin processes."""
        self.world.closing.set()
        with self.world.db.changed:
            self.world.db.changed.notify_all()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.world.dom0.close()

    # what tests look at

    def inventory(self) -> dict[str, Any]:
        """Return a summary of what exists now."""
        return inventory.inventory(self.world)

    @property
    def faults(self) -> Faults:
        """Return the rules that make calls fail."""
        return self.world.faults

    @property
    def requests(self) -> Requests:
        """Return the counters of calls."""
        return self._dispatcher.requests

    @property
    def default_sr_uuid(self) -> str:
        """Return the uuid of the pool's default SR."""
        return self._uuid("SR", self._pool()["default_SR"])

    @property
    def sr_path(self) -> Path:
        """Return the directory of the default SR."""
        return self.world.stores[self._pool()["default_SR"]].path

    @property
    def compute_vm_uuid(self) -> str:
        """Return the uuid of the VM that nova-compute runs in."""
        return self._uuid("VM", self.world.compute_vm)

    @property
    def host_uuid(self) -> str:
        """Return the uuid of the coordinator."""
        return self._uuid("host", self._pool()["master"])

    def _pool(self) -> dict[str, Any]:
        return self.world.db.row("pool", self.world.db.refs("pool")[0])

    def _uuid(self, cls: str, ref: str) -> str:
        return str(self.world.db.row(cls, ref)["uuid"])
