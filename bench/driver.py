# SPDX-License-Identifier: Apache-2.0
"""What the driver's regular work costs the host, against its number of servers.

An embedded host in a process of its own is filled with running servers, each with a
disk and a NIC. The driver then starts on it and does what nova-compute has it do
again and again. Requests and bytes are counted by the session; times are taken with
the host answering at once and some milliseconds late.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import statistics
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import nova.conf
from nova import objects
from nova.compute import provider_tree

from bench.hosts import Client, Host, running
from tests import builders, fixtures
from tests.sim.clients import vbd_record, vdi_record, vif_record, vm_record
from xenapi_driver import driver as xenapi
from xenapi_driver.xapi import transport, wire
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.vm import VmRecord
from xenapi_driver.xapi.wire_json import JsonRpc
from xenapi_driver.xapi.wire_xml import XmlRpc

CONF = nova.conf.CONF
SIZES = (10, 100, 1000, 5000)
LATENCIES_MS = (0, 3, 20)
DIALECTS: dict[str, wire.Dialect] = {"JSON-RPC": JsonRpc(), "XML-RPC": XmlRpc()}
_TIMES = 3
# A host for 5,000 small servers.
_HOST = "pools: [{hosts: [{name: big, memory: 1024 GiB, cpus: 64}]}]"
_MEMORY = str(64 * 2**20)

CONNECT = "connect"
READ_ALL = "read all records"
INIT_HOST = "init_host"
POWER_SYNC = "power sync"
RESOURCES = "update_available_resource"
LIST = "list_instances"

# What one piece of work cost: requests, sent and received bytes, polls, bytes of
# their answers, seconds by milliseconds of latency.
Cost = dict[str, Any]
Costs = dict[str, dict[int, Cost]]


def fill(client: Client, count: int) -> list[objects.Instance]:
    """Make ``count`` running servers of Nova's, each with a disk and a NIC."""
    network = client.call("network.get_all")[0]
    host = client.call("host.get_all")[0]
    (pool,) = client.call("pool.get_all_records").values()
    servers = []
    for _number in range(count):
        server = builders.instance("")
        record = vm_record(
            name_label=server.name,
            affinity=host,
            memory_static_min=_MEMORY,
            memory_dynamic_min=_MEMORY,
            memory_dynamic_max=_MEMORY,
            memory_static_max=_MEMORY,
            other_config={"nova_uuid": server.uuid},
        )
        vm = client.call("VM.create", record)
        disk = client.call(
            "VDI.create", vdi_record(pool["default_SR"], name_label=server.name)
        )
        client.call("VBD.create", vbd_record(vm, disk))
        client.call("VIF.create", vif_record(vm, network))
        client.call("VM.start_on", vm, host, False, False)
        servers.append(server)
    return servers


class Bench:
    """The driver on one filled host.

    :ivar costs: what was measured, by the name of the work
    """

    def __init__(self, host: Host, servers: list[objects.Instance]) -> None:
        self._host = host
        self._servers = servers
        self.costs: dict[str, Cost] = {}

    def session(self, dialect: wire.Dialect | None = None) -> Session:
        """Return a session that is not logged in yet."""
        url = self._host.urls[0]
        dialects = (dialect,) if dialect else tuple(DIALECTS.values())
        return Session(
            lambda: transport.connect(url),
            "root",
            "secret",
            "bench",
            Tuning(dialects=dialects),
        )

    def latency(self, milliseconds: int) -> None:
        """Have the host answer each call so much later."""
        self._rules({"clear": "true"})
        if milliseconds:
            self._rules({"method": "*", "delay": milliseconds / 1000, "times": -1})

    def _rules(self, query: dict[str, Any]) -> None:
        url = f"{self._host.urls[0]}/_sim/rules?{urlencode(query)}"
        with urllib.request.urlopen(url) as answer:
            answer.read()

    @contextlib.contextmanager
    def measured(
        self, what: str, milliseconds: int, session: Session
    ) -> Iterator[None]:
        """Note what the work inside costs."""
        requests = session.requests
        before = (requests.total, requests.sent, requests.received)
        polls = (requests.polls, requests.polls_received)
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        cost = self.costs.setdefault(what, {"seconds": {}})
        cost["requests"] = requests.total - before[0]
        cost["sent"] = requests.sent - before[1]
        cost["received"] = requests.received - before[2]
        cost["polls"] = requests.polls - polls[0]
        cost["polls_received"] = requests.polls_received - polls[1]
        cost["seconds"].setdefault(milliseconds, []).append(seconds)

    def run(self, latencies: tuple[int, ...]) -> None:
        """Measure everything at each latency."""
        for milliseconds in latencies:
            self.latency(milliseconds)
            for _time in range(_TIMES):
                self._layer(milliseconds)
                self._driver(milliseconds)
        self.latency(0)
        for name, dialect in DIALECTS.items():
            for _time in range(_TIMES):
                self._read_all(f"{READ_ALL}, {name}", 0, dialect)
        for cost in self.costs.values():
            for milliseconds, times in cost["seconds"].items():
                cost["seconds"][milliseconds] = statistics.median(times)

    def _layer(self, milliseconds: int) -> None:
        session = self.session()
        with self.measured(CONNECT, milliseconds, session):
            session.login()
        session.logout()
        self._read_all(READ_ALL, milliseconds)

    def _read_all(
        self, what: str, milliseconds: int, dialect: wire.Dialect | None = None
    ) -> None:
        session = self.session(dialect)
        session.login()
        try:
            with self.measured(what, milliseconds, session):
                assert session.records[VmRecord]
        finally:
            session.logout()

    def _driver(self, milliseconds: int) -> None:
        driver = xenapi.XenAPIDriver(fixtures.VirtApi())
        opened: list[Session] = []

        def counted(session: Session) -> Session:
            opened.append(session)
            return session

        with _sessions_seen(counted):
            begin = time.perf_counter()
            driver.init_host("bench")
            seconds = time.perf_counter() - begin
        (session,) = opened
        try:
            self._init_host(milliseconds, session, seconds)
            self._regular_work(driver, milliseconds, session)
        finally:
            driver.cleanup_host("bench")

    def _init_host(self, milliseconds: int, session: Session, seconds: float) -> None:
        requests = session.requests
        cost = self.costs.setdefault(INIT_HOST, {"seconds": {}})
        cost |= {
            "requests": requests.total,
            "sent": requests.sent,
            "received": requests.received,
            "polls": requests.polls,
            "polls_received": requests.polls_received,
        }
        cost["seconds"].setdefault(milliseconds, []).append(seconds)

    def _regular_work(
        self, driver: xenapi.XenAPIDriver, milliseconds: int, session: Session
    ) -> None:
        (node,) = driver.get_available_nodes()
        tree = provider_tree.ProviderTree()
        tree.new_root(node, "0d5e2b31-5f4a-4f8c-9a55-3f0e8a6c2b10", generation=0)
        # The first report comes with the start.
        driver.get_available_resource(node)
        with self.measured(POWER_SYNC, milliseconds, session):
            count = driver.get_num_instances()
            running = [driver.get_info(server, False) for server in self._servers]
        assert count == len(running) == len(self._servers)
        with self.measured(RESOURCES, milliseconds, session):
            driver.get_available_resource(node)
            driver.update_provider_tree(tree, node)
        with self.measured(LIST, milliseconds, session):
            driver.list_instances()


@contextlib.contextmanager
def _sessions_seen(see: Callable[[Session], Session]) -> Iterator[None]:
    """Show each session that the driver opens."""
    opened = xenapi.startup.open_session

    def open_session(conf: Any, host: str) -> Session:
        return see(opened(conf, host))

    xenapi.startup.open_session = open_session
    try:
        yield
    finally:
        xenapi.startup.open_session = opened


def memory(session: Session) -> int:
    """Return the bytes that the records of a host take in our process."""
    tracemalloc.start()
    try:
        session.login()
        before, _peak = tracemalloc.get_traced_memory()
        kept = session.records
        after, _peak = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
        session.logout()
    return after - before


def measure(sizes: tuple[int, ...]) -> Costs:
    """Return costs by what was done and number of servers.

    ``memory`` has bytes of the records as its only number.
    """
    fixtures.prepare_nova()
    found: Costs = {}
    for size in sizes:
        with big_host() as host, quiet():
            client = Client(host.urls[0])
            bench = Bench(host, fill(client, size))
            client.close()
            with _configured(host):
                bench.run(LATENCIES_MS)
            bench.costs["memory"] = {"bytes": memory(bench.session())}
        for what, cost in bench.costs.items():
            found.setdefault(what, {})[size] = cost
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out that the host here speaks plain HTTP."""
    logger = logging.getLogger("xenapi_driver")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def big_host(*more: str) -> Iterator[Host]:
    """Start a host for thousands of servers."""
    with tempfile.TemporaryDirectory() as folder:
        inventory = pathlib.Path(folder) / "big.yaml"
        inventory.write_text(_HOST)
        plugins = ("--plugins", str(fixtures.PLUGINS))
        options = ("--inventory", str(inventory), "--sr-size-gib", "8000", *plugins)
        with running("--admin", *options, *more) as host:
            yield host


@contextlib.contextmanager
def _configured(host: Host) -> Iterator[None]:
    options = {
        "connection_url": host.urls[0],
        "connection_password": "secret",
        "check_host": False,
        "independent_compute": True,
    }
    for name, value in options.items():
        CONF.set_override(name, value, "xenserver")
    try:
        yield
    finally:
        for name in options:
            CONF.clear_override(name, "xenserver")


def ratios(found: Costs) -> dict[str, float]:
    """Return how costs grow from the fewest servers to the most; flat is 1.

    A work that costs no request is counted as one, so that there is a ratio.
    """
    kept: dict[str, float] = {}
    sizes = sorted(found[POWER_SYNC])
    few, many = sizes[0], sizes[-1]
    for what in (CONNECT, INIT_HOST, POWER_SYNC, RESOURCES, LIST):
        cost = found[what]
        name = f"ratio.requests_{what}_{many}_to_{few}".replace(" ", "_")
        kept[name] = max(cost[many]["requests"], 1) / max(cost[few]["requests"], 1)
    times = {
        name: found[f"{READ_ALL}, {name}"][many]["seconds"][0] for name in DIALECTS
    }
    kept[f"ratio.read_all_{many}_xml_to_json"] = round(
        times["XML-RPC"] / times["JSON-RPC"], 2
    )
    return kept
