# SPDX-License-Identifier: Apache-2.0
"""Disks of an SR that a build was making when its service ended."""

from __future__ import annotations

from collections.abc import Collection

from oslo_log import log as logging

from xenapi_driver.images import entries, fresh
from xenapi_driver.images.entries import Entry
from xenapi_driver.xapi import errors, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)


def remove_entry(home: Home, entry: Entry) -> bool:
    """Destroy an entry's disk; False where somebody has begun to work with it.

    Servers whose disks share its blocks keep them.

    :raises errors.XapiFailure: the host does not let go
    """
    table = home.session.records[vdi.VdiRecord]
    record = table.get(entry.vdi.ref)
    if record is None:
        return True
    if record.vbds or record.current_operations:
        return False
    if entries.image_of(record) != entry.image_id:
        return False  # a copy that has become a server's disk meanwhile
    vdi.destroy(home.session, record.ref)
    return True


def remove_strays(home: Home, settled: Collection[str] | None = None) -> set[str]:
    """Destroy disks that an earlier run of this service was making as it ended.

    :param settled: UUIDs that were there before; None: all count. A dom0 plugin may
        go on for a while after its service was killed
    :returns: UUIDs of those that are still there
    """
    session, host_uuid = home.session, home.host.uuid
    left = set()
    for one in vdi.in_sr(session, home.sr.ref):
        run = fresh.run_of(one, host_uuid)
        if run in (None, fresh.RUN) or one.vbds or one.current_operations:
            continue
        if settled is not None and one.uuid not in settled:
            left.add(one.uuid)
            continue
        try:
            vdi.destroy(session, one.ref)
        except errors.XapiFailure as exc:
            left.add(one.uuid)
            LOG.warning("Disk %(disk)s of a broken-off build stays: %(why)s",
                        {"disk": one.uuid, "why": exc})  # fmt: skip
        else:
            LOG.info("Removed disk %s of a broken-off build.", one.uuid)
    return left


def remove_twins(home: Home) -> None:
    """Destroy copies of entries that no server ever got; for a service that starts.

    On a shared SR they may be another service's, which is about to name them: there
    they have to be seen twice (``ops/image_cache.py``).
    """
    if home.sr.shared:
        return
    for entry in entries.look(home.session, home.sr):
        if not entry.twin:
            continue
        try:
            if remove_entry(home, entry):
                LOG.info("Removed disk %s of a broken-off build.", entry.vdi.uuid)
        except errors.XapiFailure as exc:
            LOG.warning("Disk %(disk)s of a broken-off build stays: %(why)s",
                        {"disk": entry.vdi.uuid, "why": exc})  # fmt: skip
