# SPDX-License-Identifier: Apache-2.0
"""How much of a host's memory is taken, from records; no request."""

from __future__ import annotations

from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.host_metrics import HostMetricsRecord
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.vm import VmRecord


def guests(snapshot: Snapshot, host_ref: str) -> list[VmRecord]:
    """Return the VMs, dom0 too, that run on the host or are about to."""
    return [
        guest
        for guest in snapshot[VmRecord].values()
        if host_ref in (guest.resident_on, guest.scheduled_on)
    ]


def used(snapshot: Snapshot, host: HostRecord) -> int:
    """Return the bytes that Xen, dom0 and guests take, with their overhead.

    As host.compute_free_memory counts: what new guests can have is the rest.
    """
    running = guests(snapshot, host.ref)
    return host.memory_overhead + sum(guest.memory_needed for guest in running)


def free(snapshot: Snapshot, host: HostRecord) -> int | None:
    """Return the bytes that new guests can have, None where the host tells no total."""
    metrics = snapshot[HostMetricsRecord].get(host.metrics)
    return None if metrics is None else metrics.memory_total - used(snapshot, host)
