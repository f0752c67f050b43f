# SPDX-License-Identifier: Apache-2.0
"""Wait until the storage manager has merged what it can of a disk's chain.

Its garbage collector works when it likes: begun by a scan or by a disk that goes, it
first rests for minutes, and then takes as long as the disks are large. So it is not a
time that is waited for, but its end: as long as it does anything, or says that it is
about to, we wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver.xapi import chains, errors
from xenapi_driver.xapi.chains import Chain
from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.task import TaskRecord
from xenapi_driver.xapi.vdi import VdiRecord

LOG = logging.getLogger(__name__)

# The collector shows itself as a task of this name, whose description names the SR
# (xapi-project/sm, libs/sm/cleanup.py).
COLLECTOR = "garbage collection"
# A task that nobody ends, as that of a collector that was killed, is not waited for
# for ever.
_LONGEST_REST_SECONDS = 3600.0
# Keys of SR.other_config by which an operator keeps the collector from working.
_SWITCHES = ("coalesce", "gc")
# Events of a scan of ours may be on their way when it returns.
_EVENT_SECONDS = 5.0
_SHORTEST_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Looks:
    """How long a storage manager that does nothing is waited for.

    :ivar seconds: between two looks
    :ivar count: looks at which nothing had happened, after which we go on
    """

    seconds: float
    count: int


def settled(session: Client, ref: str, looks: Looks) -> Chain:
    """Return a disk's chain, once nothing of it is going to be merged.

    Each look at which nothing has happened costs one request, a scan, which wakes the
    collector; none is made where there is nothing to merge. That the collector does
    not get on is a warning.

    :raises HandleInvalid: the disk is gone
    :raises ChainUnknown: XAPI does not know the chain, also after a scan
    """
    chain = _known(session, ref)
    quiet, wake = 0, True
    while True:
        now = session.records
        chain = chains.of(now, ref)
        node = chains.mergeable(now, chain)
        if node is None or _switched_off(now, chain[0].sr):
            return chain
        if quiet > _patience(now, chain, looks):
            LOG.warning(
                "The storage manager does not merge VHD %(node)s of SR %(sr)s. The "
                "chain of %(depth)d VHDs is used as it is; look into /var/log/SMlog "
                "on the host.",
                {"node": node.uuid, "sr": _sr_uuid(now, chain), "depth": len(chain)},
            )
            return chain
        if wake:
            LOG.debug("VHD %s is to be merged into its parent.", node.uuid)
            _wake(session, chain[0].sr)
        wake = not _something_happened(session, now, chain, looks)
        quiet = quiet + 1 if wake else 0


def _known(session: Client, ref: str) -> Chain:
    """Return the chain; have the SR read again where XAPI does not know all of it."""
    try:
        return chains.of(session.records, ref)
    except chains.ChainUnknown as exc:
        LOG.info("Scanning the SR: %s", exc)
    session.call("SR.scan", session.records[VdiRecord][ref].sr)

    def known(now: Snapshot) -> bool:
        try:
            return bool(chains.of(now, ref))
        except chains.ChainUnknown:
            return False

    session.events.until(known, _EVENT_SECONDS)
    return chains.of(session.records, ref)


def _wake(session: Client, sr_ref: str) -> None:
    try:
        session.call("SR.scan", sr_ref)
    except errors.XapiFailure as exc:
        # Another scan is under way, or the collector holds what it would read.
        LOG.debug("The SR was not scanned: %s", exc)


def _patience(now: Snapshot, chain: Chain, looks: Looks) -> float:
    """Return at how many looks nothing may have happened."""
    if not _collecting(now, _sr_uuid(now, chain)):
        return looks.count
    return max(looks.count, _LONGEST_REST_SECONDS / _seconds(looks))


def _seconds(looks: Looks) -> float:
    return max(looks.seconds, _SHORTEST_LOOK_SECONDS)


def _collecting(now: Snapshot, sr_uuid: str) -> bool:
    """Tell whether the collector says that it is at work on an SR, or about to be."""
    return any(
        not task.ended
        and sr_uuid in task.name_description
        and COLLECTOR in task.name_label.lower()
        for task in now[TaskRecord].values()
    )


def _sr_uuid(now: Snapshot, chain: Chain) -> str:
    record = now[SrRecord].get(chain[0].sr)
    return record.uuid if record is not None else ""


def _switched_off(now: Snapshot, sr_ref: str) -> bool:
    record = now[SrRecord].get(sr_ref)
    return record is not None and any(
        record.other_config.get(key) == "false" for key in _SWITCHES
    )


def _something_happened(
    session: Client, before: Snapshot, chain: Chain, looks: Looks
) -> bool:
    """Wait for a while; tell whether the collector did anything. No request."""
    hidden = [
        one.ref
        for one in before[VdiRecord].owned_by(chain[0].sr)
        if not one.managed
    ]
    watched = {*hidden, *(one.ref for one in chain)}
    was = before[VdiRecord]

    def other(now: Snapshot) -> bool:
        disks = now[VdiRecord]
        # New disks are none of its work; a table that is the same has no others.
        return disks is not was and any(
            disks.get(ref) != was.get(ref) for ref in watched
        )

    return session.events.until(other, _seconds(looks))
