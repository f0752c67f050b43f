# SPDX-License-Identifier: Apache-2.0
"""Who has how much of a host's memory, by XAPI's own rules; all in bytes."""

import math

from xenapi_driver.sim.registry import Registry, Row

_MIB = 1024 * 1024


def overhead(row: Row) -> int:
    """Return what a guest costs beyond its own memory ("XAPI today", section 9)."""
    static_mib = row["memory_static_max"] / _MIB
    pages = math.ceil((256 * row["VCPUs_max"] + 2 * static_mib) / 256)
    shadow = max(1, math.floor(row["HVM_shadow_multiplier"] * pages))
    extra = math.ceil(38 * row["VCPUs_max"] / 256)
    if row["domain_type"] == "pv_in_pvh":
        extra += 23 + static_mib / 90
    return int(2 + shadow + extra) * _MIB


def needed(row: Row) -> int:
    """Return what a guest takes from its host."""
    name = "memory_static_max" if row["domain_type"] == "pv_in_pvh" else None
    return int(row[name or "memory_dynamic_min"]) + int(row["memory_overhead"])


def free(db: Registry, host: str) -> int:
    """Return what is left for new guests."""
    about = db.row("host", host)
    metrics = db.row("host_metrics", about["metrics"])
    guests = sum(needed(db.row("VM", ref)) for ref in about["resident_VMs"])
    return int(metrics["memory_total"] - about["memory_overhead"] - guests)
