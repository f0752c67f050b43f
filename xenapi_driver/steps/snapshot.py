# SPDX-License-Identifier: Apache-2.0
"""Steps of a snapshot: keep a disk as it is now, and give it to an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver import exceptions, flow
from xenapi_driver.images.handlers import Handler
from xenapi_driver.images.source import ImageTarget
from xenapi_driver.xapi import chains, coalescing, errors, sr, vdi
from xenapi_driver.xapi.chains import Chain
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

# How often a snapshot that is no longer needed is destroyed, and the pause between.
_DROP_ATTEMPTS = 3
_DROP_PAUSE_SECONDS = 1.0

# In VDI.other_config of a snapshot of ours: for which image it was taken, and by the
# service of which host. Snapshots without them are an operator's, and are left alone.
IMAGE_KEY = "nova_snapshot_image"
HOST_KEY = "nova_snapshot_host"

# How often a chain that is merged while it is read is read anew.
ATTEMPTS = 10


@dataclass
class Taken:
    """What exists of a snapshot; the steps fill it.

    :ivar vdi: reference of the snapshot
    :ivar known: snapshots of the disk that were there before
    :ivar chain: what is to be stored, leaf first
    :ivar copy: reference of a copy of the snapshot that is stored in its stead
    """

    vdi: str | None = None
    known: frozenset[str] | None = None
    chain: Chain = ()
    copy: str | None = None


class TakeSnapshot(flow.Step[Taken]):
    """Snapshot a disk and mark the snapshot as ours. Undo destroys it.

    What earlier ones of ours have left of this disk goes first, as it would keep the
    storage manager from merging.
    """

    name = "take-snapshot"

    def __init__(self, home: Home, disk: vdi.VdiRecord, image_id: str) -> None:
        self._home = home
        self._disk = disk
        self._image_id = image_id

    def run(self, state: Taken) -> None:
        session = self._home.session
        known = vdi.snapshots_of(session, self._disk.ref)
        for old in known:
            if IMAGE_KEY in old.other_config:
                _drop(self._home, old)
        state.known = frozenset(one.ref for one in known)
        state.vdi = vdi.snapshot(session, self._disk.ref)
        marks = {IMAGE_KEY: self._image_id, HOST_KEY: self._home.host.uuid}
        keys = {**self._disk.other_config, **marks}
        vdi.set_other_config(session, state.vdi, keys)
        state.chain = (vdi.get(session, state.vdi),)

    def undo(self, state: Taken) -> None:
        session = self._home.session
        if state.vdi is not None:
            vdi.destroy(session, state.vdi)
            state.vdi = None
        elif state.known is not None:
            # It may have been taken although the host said no, or nothing.
            for one in vdi.snapshots_of(session, self._disk.ref):
                if one.ref not in state.known and self._is_bare(one):
                    vdi.destroy(session, one.ref)

    def _is_bare(self, one: vdi.VdiRecord) -> bool:
        """Tell whether it is what VDI.snapshot alone makes of our disk."""
        return (
            not one.vbds
            and one.name_label == self._disk.name_label
            and one.other_config == self._disk.other_config
        )


class SettleChain(flow.Step[Taken]):
    """Wait until the storage manager has merged what it can of the snapshot's chain."""

    name = "settle-chain"

    def __init__(self, home: Home, looks: coalescing.Looks) -> None:
        self._home = home
        self._looks = looks

    def run(self, state: Taken) -> None:
        state.chain = coalescing.settled(self._home.session, state.vdi, self._looks)


class Tell(flow.Step[Taken]):
    """Tell Nova how far we are; what it raises ends the flow."""

    name = "tell-nova"

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def run(self, state: Taken) -> None:
        self._tell()


class FlattenLongChain(flow.Step[Taken]):
    """Copy the snapshot where its chain has more VHDs than an image may have.

    The copy is one VHD. Undo destroys it.
    """

    name = "flatten-long-chain"

    def __init__(self, home: Home, longest: int) -> None:
        self._home = home
        self._longest = longest

    def run(self, state: Taken) -> None:
        if len(state.chain) <= self._longest:
            return
        LOG.info(
            "Copying snapshot %(vdi)s: its chain has %(depth)d VHDs, and an image may "
            "have %(longest)d.",
            {
                "vdi": state.chain[0].uuid,
                "depth": len(state.chain),
                "longest": self._longest,
            },
        )
        session = self._home.session
        state.copy = vdi.copy(session, state.vdi, state.chain[0].sr)
        state.chain = chains.of(session.records, state.copy)

    def undo(self, state: Taken) -> None:
        if state.copy is not None:
            vdi.destroy(self._home.session, state.copy)
            state.copy = None


class StoreImage(flow.Step[Taken]):
    """Give the snapshot to the image, anew where its chain changed meanwhile."""

    name = "store-image"

    def __init__(
        self,
        home: Home,
        handler: Handler,
        target: ImageTarget,
        looks: coalescing.Looks,
    ) -> None:
        self._home = home
        self._handler = handler
        self._target = target
        self._looks = looks

    def run(self, state: Taken) -> None:
        for left in reversed(range(ATTEMPTS)):
            try:
                self._handler.store(
                    self._target, state.chain[0], [one.uuid for one in state.chain]
                )
                return
            except (exceptions.DisksBusy, exceptions.UnfitHost) as exc:
                if not left or not self._try_again(state, exc):
                    raise

    def _try_again(self, state: Taken, failed: exceptions.DriverError) -> bool:
        """Wait for the chain as it is now; return whether to store it again."""
        session, before = self._home.session, [one.uuid for one in state.chain]
        sr.scan(session, state.chain[0].sr)
        state.chain = coalescing.settled(session, state.chain[0].ref, self._looks)
        changed = before != [one.uuid for one in state.chain]
        if not changed and not isinstance(failed, exceptions.DisksBusy):
            return False
        LOG.info("Storing the snapshot again. %s", failed)
        if not changed:
            time.sleep(self._looks.seconds)
        return True


class DropSnapshot(flow.Step[Taken]):
    """Destroy the snapshot. The image is there, so that a failure is a warning."""

    name = "drop-snapshot"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Taken) -> None:
        for ref in (state.copy, state.vdi):
            if ref is not None:
                self._dropped(ref, state.chain[0].uuid)
        state.copy = state.vdi = None

    def _dropped(self, ref: str, uuid: str) -> None:
        """Destroy it; the storage manager may be at it when it is asked first."""
        for left in reversed(range(_DROP_ATTEMPTS)):
            try:
                vdi.destroy(self._home.session, ref)
                return
            except errors.XapiError as exc:
                if not left:
                    LOG.warning(
                        "Snapshot %(vdi)s stays in the SR until the next one of the "
                        "server or the next start: %(error)s",
                        {"vdi": uuid, "error": exc},
                    )
                    return
            time.sleep(_DROP_PAUSE_SECONDS)


def remove_interrupted(home: Home) -> int:
    """Destroy the snapshots that an earlier process of ours has left; return how many.

    Only to be called while no snapshot is taken. Those of other hosts of the pool, and
    of operators, are left alone.
    """
    found = [
        one
        for one in home.session.records[vdi.VdiRecord].values()
        if one.other_config.get(HOST_KEY) == home.host.uuid and one.is_a_snapshot
    ]
    return sum(_drop(home, one) for one in found)


def _drop(home: Home, record: vdi.VdiRecord) -> bool:
    """Destroy a snapshot that nobody waits for; return whether it is gone."""
    try:
        vdi.destroy(home.session, record.ref)
    except errors.XapiFailure as exc:
        LOG.warning(
            "Snapshot %(vdi)s for image %(image)s, which was interrupted, stays in "
            "the SR: %(error)s",
            {
                "vdi": record.uuid,
                "image": record.other_config.get(IMAGE_KEY),
                "error": exc,
            },
        )
        return False
    LOG.info(
        "Removed snapshot %(vdi)s for image %(image)s, which was interrupted.",
        {"vdi": record.uuid, "image": record.other_config.get(IMAGE_KEY)},
    )
    return True
