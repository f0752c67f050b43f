# SPDX-License-Identifier: Apache-2.0
"""What is left on a host of the matrix once all its servers are deleted."""

from __future__ import annotations

from demo import leftovers
from demo.failure import DemoFailure
from demo.waiting import until
from tests.integration.rows import Matrix


def check(matrix: Matrix, place: str) -> None:
    """Hold a node's host against what it was: only cached images may be more.

    :raises DemoFailure: something is left, or is lost
    """
    host, before = matrix.hosts[place], matrix.before[place]
    cached: set[str] = set()
    for image_id, kind in matrix.booted[place].items():
        if kind != "iso":  # CDs are never cached
            cached |= leftovers.cache_of(host.disks(), image_id)
        # Kernels are kept in dom0 under the names of their images.
        cached |= matrix.parts.get(kind, set())
    last: list[str] = []

    def clean() -> bool:
        # The host's garbage collector takes a moment, as a real one does.
        last[:] = leftovers.differences(before, host.admin("inventory"), cached)
        return not last

    try:
        until(clean, "the host as before", host.log, 15)
    except DemoFailure as exc:
        raise DemoFailure(exc.expected, "; ".join(last), host.log) from exc
