# SPDX-License-Identifier: Apache-2.0
"""What can be measured of simulated guests and hosts, at any time of their life.

There is no clock that samples: a source is a function of the state now and of time.
Loads swing slowly, each in its own way that its owner's uuid decides; sizes are what
the records say. So equal questions get equal answers ("XAPI today", section 17).
"""

import calendar
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xenapi_driver.sim import boot_times
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import memory
from xenapi_driver.sim.world import World

_KIB = 1024
_PERIOD = 600.0


@dataclass(frozen=True)
class Source:
    """One thing that is measured.

    :ivar value: returns it at a time, in seconds since the epoch
    :ivar standard: recorded unless somebody turned it off
    """

    name: str
    about: str
    units: str
    value: Callable[[float], float]
    most: float = 1e18
    standard: bool = True


@dataclass(frozen=True)
class Owner:
    """Who is measured.

    :ivar kind: ``vm`` or ``host``
    :ivar since: when it began, seconds since the epoch
    """

    kind: str
    ref: str
    uuid: str
    since: float
    sources: tuple[Source, ...]
    all_kinds: bool

    def recorded(self, world: World) -> list[Source]:
        """Return the sources that are recorded now, by name."""
        chosen = world.recorded.get(self.ref, {})
        wanted = [s for s in self.sources if chosen.get(s.name, s.standard)]
        return sorted(wanted, key=lambda source: source.name)

    def value(self, world: World, source: Source, when: float) -> float:
        """Return what was measured, NaN where nothing was."""
        since = max(self.since, world.forgotten.get((self.ref, source.name), 0.0))
        return source.value(when) if since <= when else math.nan


def _wave(seed: str, low: float, high: float) -> Callable[[float], float]:
    """Return a load that swings between two values, in a rhythm of its own."""
    number = zlib.crc32(seed.encode())
    phase, pace = number % 1000 / 1000, 1 + number // 1000 % 1000 / 1000

    def value(when: float) -> float:
        angle = 2 * math.pi * (when / (_PERIOD * pace) + phase)
        return low + (high - low) * (1 + math.sin(angle)) / 2

    return value


def _constant(number: float) -> Callable[[float], float]:
    return lambda when: float(number)


def _total(parts: list[Callable[[float], float]]) -> Callable[[float], float]:
    return lambda when: sum(part(when) for part in parts)


# Guests


def guest(world: World, vm: str) -> Owner:
    """Return a running guest and its sources."""
    db = world.db
    row = db.row("VM", vm)
    metrics = db.row("VM_metrics", row["metrics"])
    sources = [*_guest_cpus(row), *_guest_memory(row)]
    for name in ("VIFs", "VBDs"):
        for ref in row[name]:
            sources += _device(db, name[:-1], ref, row)
    extremes = row["other_config"].get("create_min_max_in_new_VM_RRDs") == "true"
    pool = db.row("pool", db.refs("pool")[0])
    key = "create_min_max_in_new_VM_RRDs"
    extremes = extremes or pool["other_config"].get(key) == "true"
    since = calendar.timegm(time.strptime(metrics["start_time"], "%Y%m%dT%H:%M:%SZ"))
    if row["is_control_domain"]:
        since = int(boot_times.of(db, row["resident_on"]))
    return Owner("vm", vm, row["uuid"], float(since), tuple(sources), extremes)


def _works(row: Row) -> bool:
    return bool(row["power_state"] == "Running")


def _loads(row: Row) -> list[Callable[[float], float]]:
    """Return the load of each virtual CPU, 0 to 1."""
    numbers = range(row["VCPUs_at_startup"])
    if not _works(row):
        return [_constant(0.0) for _ in numbers]
    return [_wave(f"{row['uuid']}cpu{n}", 0.01, 0.25) for n in numbers]


def _guest_cpus(row: Row) -> Iterator[Source]:
    loads = _loads(row)
    for number, load in enumerate(loads):
        name, about = f"cpu{number}", f"CPU{number} usage"
        yield Source(name, about, "(fraction)", load, 1.0)
    total = _total(loads)
    usage = Source(
        "cpu_usage",
        "Domain CPU usage",
        "(fraction)",
        lambda when: total(when) / max(1, len(loads)),
        1.0,
    )
    yield usage
    full = usage.value
    for name, about, share in (
        ("runstate_fullrun", "Fraction of time that all VCPUs are running", full),
        (
            "runstate_blocked",
            "Fraction of time that all VCPUs are blocked or offline",
            lambda when: 1 - full(when),
        ),
    ):
        yield Source(name, about, "(fraction)", share, 1.0, standard=False)


def _guest_memory(row: Row) -> Iterator[Source]:
    actual, most = row["memory_target"], float(row["memory_static_max"])
    about = "Memory currently allocated to VM"
    yield Source("memory", about, "B", _constant(actual), most)
    about = "Target of VM balloon driver"
    yield Source("memory_target", about, "B", _constant(actual), most)
    if row["guest_metrics"] != NULL:
        free = _wave(f"{row['uuid']}free", 0.4 * actual / _KIB, 0.6 * actual / _KIB)
        about = "Memory used as reported by the guest agent"
        yield Source("memory_internal_free", about, "KiB", free, most / _KIB)


def _device(db: Registry, cls: str, ref: str, vm: Row) -> Iterator[Source]:
    row = db.row(cls, ref)
    if not row["currently_attached"] or (cls == "VBD" and row["empty"]):
        return
    prefix = f"{cls.lower()}_{row['device']}"
    most = 100e6 if _works(vm) else 0.0
    if cls == "VIF":
        for way, about in (("rx", "received"), ("tx", "transmitted")):
            rate = _traffic(row, way, _works(vm))
            text = f"Bytes per second {about} on virtual interface {row['device']}"
            yield Source(f"{prefix}_{way}", text, "B/s", rate, 1e10)
        return
    for way, about in (("read", "Reads from"), ("write", "Writes to")):
        rate = _wave(f"{row['uuid']}{way}", 0.0, min(most, 200e3))
        text = f"{about} device {row['device']} in bytes per second"
        yield Source(f"{prefix}_{way}", text, "B/s", rate, 1e10)
        delay = _wave(f"{row['uuid']}{way}s", 0.0, min(most, 900.0))
        text = f"{about} device {row['device']} in microseconds"
        name = f"{prefix}_{way}_latency"
        yield Source(name, text, "\N{GREEK SMALL LETTER MU}s", delay, standard=False)
        calls = _wave(f"{row['uuid']}{way}n", 0.0, min(most, 40.0))
        text = f"{about} device {row['device']}, requests per second"
        name = f"{prefix}_iops_{way}"
        yield Source(name, text, "requests/s", calls, standard=False)


def _traffic(row: Row, way: str, works: bool) -> Callable[[float], float]:
    if not works:
        return _constant(0.0)
    return _wave(f"{row['uuid']}{way}", 50.0, 20e3)


# Hosts


def host(world: World, ref: str) -> Owner:
    """Return a host and its sources."""
    db = world.db
    row = db.row("host", ref)
    guests = [db.row("VM", vm) for vm in row["resident_VMs"]]
    sources = (
        *_host_cpus(db, row, guests),
        *_host_memory(db, ref, row),
        *_host_networks(db, row, guests),
        *_toolstack(db, row),
    )
    return Owner("host", ref, row["uuid"], boot_times.of(db, ref), sources, True)


def _host_cpus(db: Registry, row: Row, guests: list[Row]) -> Iterator[Source]:
    count = len(row["host_CPUs"]) or 1
    busy = _total([load for guest in guests for load in _loads(guest)])

    def average(when: float) -> float:
        return min(1.0, busy(when) / count)

    for number in range(count):
        share = _wave(f"{row['uuid']}cpu{number}", 0.8, 1.2)
        yield Source(
            f"cpu{number}",
            f"Physical cpu usage for cpu {number}",
            "(fraction)",
            lambda when, share=share: min(1.0, average(when) * share(when)),  # type: ignore[misc]
            1.0,
        )
    yield Source("cpu_avg", "Average physical CPU usage", "(fraction)", average, 1.0)
    about = "Host load per physical CPU"
    yield Source("hostload", about, "(fraction)", average)
    yield Source("loadavg", "Domain0 loadavg", "(fraction)", average)
    vcpus = sum(guest["VCPUs_at_startup"] for guest in guests)
    for name, about, number in (
        ("running_domains", "Total number of running domains", len(guests)),
        ("running_vcpus", "Total number of running vCPUs", vcpus),
    ):
        yield Source(name, about, "count", _constant(number))


def _host_memory(db: Registry, ref: str, row: Row) -> Iterator[Source]:
    total = db.row("host_metrics", row["metrics"])["memory_total"] / _KIB
    free = memory.free(db, ref) / _KIB
    for name, about, size in (
        ("memory_total_kib", "Total amount of memory on the host", total),
        ("memory_free_kib", "Total amount of free memory on the host", free),
        ("memory_reclaimed", "Host memory reclaimed by squeezing", 0),
        ("memory_reclaimed_max", "Host memory that could be reclaimed", 0),
    ):
        units = "KiB" if name.endswith("kib") else "B"
        yield Source(name, about, units, _constant(size))


def _host_networks(db: Registry, row: Row, guests: list[Row]) -> Iterator[Source]:
    vifs = [db.row("VIF", ref) for guest in guests for ref in guest["VIFs"]]
    everything: dict[str, list[Callable[[float], float]]] = {"rx": [], "tx": []}
    for ref in row["PIFs"]:
        pif = db.row("PIF", ref)
        if not pif["physical"]:
            continue
        for way, about in (("rx", "received"), ("tx", "sent")):
            parts = [_wave(f"{pif['uuid']}{way}", 500.0, 4e3)]
            # What a guest receives comes from the network, and the other way round.
            parts += [
                _traffic(vif, way, True)
                for vif in vifs
                if vif["network"] == pif["network"] and vif["currently_attached"]
            ]
            everything[way] += parts
            name = f"pif_{pif['device']}_{way}"
            text = f"Bytes per second {about} on physical interface {pif['device']}"
            yield Source(name, text, "B/s", _total(parts), 1e10)
    for way, about in (("rx", "received"), ("tx", "sent")):
        text = f"Bytes per second {about} on all physical interfaces"
        yield Source(f"pif_aggr_{way}", text, "B/s", _total(everything[way]), 1e11)


def _toolstack(db: Registry, row: Row) -> Iterator[Source]:
    for name, about, units, number in (
        (
            "pool_session_count",
            "Number of sessions",
            "sessions",
            len(db.refs("session")),
        ),
        ("pool_task_count", "Number of tasks", "tasks", len(db.refs("task"))),
        ("xapi_open_fds", "Open files of XAPI", "count", 64),
    ):
        yield Source(name, about, units, _constant(number))
    for name, low, high in (
        ("xapi_allocation_kib", 500, 9000),
        ("xapi_free_memory_kib", 10_000, 20_000),
        ("xapi_live_memory_kib", 60_000, 70_000),
        ("xapi_memory_usage_kib", 120_000, 130_000),
    ):
        load = _wave(row["uuid"] + name, low, high)
        words = name.removesuffix("_kib").replace("_", " ").replace("xapi", "XAPI")
        yield Source(name, f"{words} in KiB", "KiB", load)
