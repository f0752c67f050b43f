# SPDX-License-Identifier: Apache-2.0
"""Images kept in the SR, so that a second build of one needs no download.

What an entry is, ``images/entries.py`` says. A server's disk is a copy of one under
the server's own name and keys, so it is never taken for an entry.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver.images import entries
from xenapi_driver.images.copies import Copies
from xenapi_driver.xapi import errors, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

Fetch = Callable[[], vdi.VdiRecord]


@dataclass(frozen=True)
class OwnDisk:
    """What makes a copy a server's own disk: its name label and other_config."""

    name: str
    keys: dict[str, str]


class ImageCache:
    """The cache of one SR: one build at a time fills an entry or copies it."""

    def __init__(self, home: Home, cow: bool = True) -> None:
        """:param cow: see :class:`Copies`"""
        self._home = home
        self._copies = Copies(home, cow)
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._taken: dict[str, float] = {}

    def has(self, image_id: str) -> bool:
        """Tell whether the image is cached; no request."""
        return bool(self._entries(image_id))

    def clone(
        self,
        image_id: str,
        fetch: Fetch,
        accept: Callable[[vdi.VdiRecord], None],
        disk: OwnDisk,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[str, vdi.VdiRecord]:
        """Make a server's disk of the image's entry, fetching it when there is none.

        However many builds ask at once, one fetches and the others wait. On a
        failure no copy is left, also where the host's answer was lost.

        :param accept: raises when the entry does not suit the server
        :param progress: of a full copy, 0.0 to 1.0
        :returns: the new disk's reference, and the entry
        """
        with self._only_one(image_id):
            for entry in self._offered(image_id, fetch):
                accept(entry)
                try:
                    return self._copied(entry, image_id, disk, progress), entry
                except errors.HandleInvalid as exc:
                    LOG.info("Cached image %s was removed meanwhile.", image_id)
                    gone = exc
            raise gone

    def warm(self, image_id: str, fetch: Fetch) -> bool:
        """See that the image is cached; return whether it had to be fetched."""
        with self._only_one(image_id):
            if self._entries(image_id):
                return False
            self._fetched(image_id, fetch)
            return True

    def taken_at(self, image_id: str) -> float | None:
        """Return when a build of this process last took the image's entry.

        In seconds since 1970; None when none did.
        """
        return self._taken.get(image_id)

    @contextmanager
    def idle(self, image_id: str) -> Iterator[bool]:
        """Keep builds of the image waiting; gives False when one is at work on it."""
        with self._guard:
            mine = image_id not in self._locks
            if mine:
                lock = threading.Lock()
                lock.acquire()
                self._locks[image_id] = (lock, 1)
        if not mine:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
            self._leave(image_id)

    def _offered(self, image_id: str, fetch: Fetch) -> Iterator[vdi.VdiRecord]:
        """Give the entries that there are, then one that is fetched, and another.

        Who cleans the cache may remove what was fetched just now.
        """
        yield from self._entries(image_id)
        yield self._fetched(image_id, fetch)
        yield self._fetched(image_id, fetch)

    def _entries(self, image_id: str) -> list[vdi.VdiRecord]:
        return entries.of_image(self._home.session, self._home.sr, image_id)

    def _fetched(self, image_id: str, fetch: Fetch) -> vdi.VdiRecord:
        record = fetch()
        try:
            # Another service of a shared SR may have been quicker.
            for other in self._entries(image_id):
                LOG.info("Image %s was cached meanwhile by another service.", image_id)
                vdi.destroy(self._home.session, record.ref)
                return other
            self._mark(record, image_id, time.time())
            return vdi.get(self._home.session, record.ref)
        except BaseException:
            vdi.destroy(self._home.session, record.ref)
            raise

    def _mark(
        self, record: vdi.VdiRecord, image_id: str, cached_at: float | None
    ) -> None:
        """Make a disk an entry; it counts as one only with the keys and the name."""
        session = self._home.session
        marks = entries.keys(image_id, record.uuid, cached_at)
        vdi.set_other_config(session, record.ref, marks)
        if record.name_label != entries.label(image_id):
            vdi.set_name_label(session, record.ref, entries.label(image_id))

    def _copied(
        self,
        entry: vdi.VdiRecord,
        image_id: str,
        disk: OwnDisk,
        progress: Callable[[float], None] | None,
    ) -> str:
        session = self._home.session
        if entries.ENTRY_KEY not in entry.other_config:
            # Of an earlier release: its copies could not be told from it.
            cached_at = entries.seconds(entry, entries.CACHED_TIME_KEY)
            self._mark(entry, image_id, cached_at)
        try:
            ref = self._copies.make(entry, progress)
        except errors.HandleInvalid:
            raise  # the entry is gone, so nothing was made
        except BaseException:
            self._drop_twins(image_id)
            raise
        try:
            # A clone carries the entry's keys until now, and is known by them as
            # what it is; the server's say whose disk it is before it has a name.
            vdi.set_other_config(session, ref, disk.keys)
            vdi.set_name_label(session, ref, disk.name)
        except BaseException:
            vdi.destroy(session, ref)
            raise
        self._taken[image_id] = time.time()
        return ref

    def _drop_twins(self, image_id: str) -> None:
        """Destroy a copy that the host made but never told us of.

        We hold the image's lock, so on an SR of our own it can be nothing else;
        on a shared SR it may be another node's, and is left alone.
        """
        session, storage = self._home.session, self._home.sr
        if storage.shared:
            return
        try:
            for twin in entries.twins_of(session, storage, image_id):
                vdi.destroy(session, twin.ref)
        except errors.XapiError as exc:
            # The caller raises what came first; this is only its clean-up.
            LOG.warning("A copy of image %s may be left: %s", image_id, exc)

    @contextmanager
    def _only_one(self, image_id: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(image_id, (threading.Lock(), 0))
            self._locks[image_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            self._leave(image_id)

    def _leave(self, image_id: str) -> None:
        with self._guard:
            lock, users = self._locks[image_id]
            if users == 1:
                del self._locks[image_id]
            else:
                self._locks[image_id] = (lock, users - 1)
