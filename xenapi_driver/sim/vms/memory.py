# SPDX-License-Identifier: Apache-2.0
"""Who has how much of a host's memory, by XAPI's own rules; all in bytes."""

import math

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row

_MIB = 1024 * 1024


def overhead(row: Row) -> int:
    """Return what a guest costs beyond its own memory ("XAPI today", section 9)."""
    static_mib = row["memory_static_max"] / _MIB
    pages = math.ceil((256 * row["VCPUs_max"] + 2 * static_mib) / 256)
    multiplier = row["HVM_shadow_multiplier"]
    if not math.isfinite(multiplier):
        multiplier = 1.0
    shadow = max(1, math.floor(multiplier * pages))
    extra = math.ceil(38 * row["VCPUs_max"] / 256)
    if row["domain_type"] == "pv_in_pvh":
        extra += 23 + static_mib / 90
    return int(2 + shadow + extra) * _MIB


def assert_order(row: Row) -> None:
    """Refuse limits that contradict each other.

    :raises Failure: MEMORY_CONSTRAINT_VIOLATION_ORDER
    """
    names = ("static_min", "dynamic_min", "dynamic_max", "static_max")
    order = [row[f"memory_{name}"] for name in names]
    if order != sorted(order):
        raise Failure("MEMORY_CONSTRAINT_VIOLATION_ORDER")


def target(row: Row) -> int:
    """Return what a guest gets of its own at its start."""
    if row["domain_type"] == "pv_in_pvh":
        return int(row["memory_static_max"])
    return int(row["memory_dynamic_min"])


def needed(row: Row) -> int:
    """Return what a guest takes from its host."""
    return target(row) + int(row["memory_overhead"])


def largest_guest(row: Row, total: int) -> int:
    """Return the largest static maximum that fits into ``total`` with its overhead."""
    low, high = 0, max(0, total) // _MIB
    while low < high:
        middle = (low + high + 1) // 2
        size = middle * _MIB
        if size + overhead({**row, "memory_static_max": size}) <= total:
            low = middle
        else:
            high = middle - 1
    return low * _MIB


def free(db: Registry, host: str) -> int:
    """Return what is left for new guests."""
    return int(db.remembered("host", host, "memory free", _free))


def _free(db: Registry, host: str, about: Row) -> int:
    metrics = db.row("host_metrics", about["metrics"])
    guests = 0
    for ref in about["resident_VMs"]:
        row = db.row("VM", ref)
        guests += target(row) + row["memory_overhead"]
    return int(metrics["memory_total"] - about["memory_overhead"] - guests)


def image_size(row: Row) -> int:
    """Return the room that a suspend image needs: 26 % more than memory, 100 MiB."""
    return int(row["memory_static_max"] * 1.2 * 1.05) + 100 * _MIB
