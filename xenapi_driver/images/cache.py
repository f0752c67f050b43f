# SPDX-License-Identifier: Apache-2.0
"""Images kept in the SR, so that a second build of one needs no download.

A cached image is a VDI named ``Glance Image <id>`` with ``other_config:image-id``;
both are what earlier releases wrote and clean-up tools look for. A server's disk
is a clone of it under the server's own name, so it is never taken for an entry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver.xapi import errors, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

IMAGE_ID_KEY = "image-id"


def label(image_id: str) -> str:
    """Return the name label of the image's cache entry."""
    return f"Glance Image {image_id}"


@dataclass(frozen=True)
class OwnDisk:
    """What makes a clone a server's own disk: its name label and other_config."""

    name: str
    keys: dict[str, str]


class ImageCache:
    """The cache of one SR: one build at a time fills an entry or clones it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    def entries(self, image_id: str) -> list[vdi.VdiRecord]:
        """Return the image's entries in our SR: one, or none when not cached."""
        return [
            record
            for record in vdi.find_by_name(self._home.session, label(image_id))
            if record.sr == self._home.sr.ref
            and record.other_config.get(IMAGE_ID_KEY) == image_id
        ]

    def clone(
        self,
        image_id: str,
        fetch: Callable[[], vdi.VdiRecord],
        accept: Callable[[vdi.VdiRecord], None],
        disk: OwnDisk,
    ) -> tuple[str, vdi.VdiRecord]:
        """Clone the image's entry, fetching the image when there is none.

        However many builds ask at once, one fetches and the others wait. On a
        failure no clone is left, also where the host's answer was lost.

        :param accept: raises when the entry does not suit the server
        :returns: the clone's reference, and the entry
        """
        with self._only_one(image_id):
            for entry in self.entries(image_id):
                accept(entry)
                try:
                    return self._clone(entry, image_id, disk), entry
                except errors.HandleInvalid:
                    LOG.info("Cached image %s was removed meanwhile.", image_id)
            entry = self._fetched(image_id, fetch)
            accept(entry)
            return self._clone(entry, image_id, disk), entry

    def _fetched(
        self, image_id: str, fetch: Callable[[], vdi.VdiRecord]
    ) -> vdi.VdiRecord:
        record = fetch()
        try:
            self._mark(record, image_id)
        except BaseException:
            vdi.destroy(self._home.session, record.ref)
            raise
        return record

    def _clone(self, entry: vdi.VdiRecord, image_id: str, disk: OwnDisk) -> str:
        session = self._home.session
        try:
            ref = vdi.clone(session, entry.ref)
        except errors.HandleInvalid:
            raise  # the entry is gone, so nothing was cloned
        except BaseException:
            self._drop_twins(entry, image_id)
            raise
        try:
            # Until these two calls the clone carries the entry's name and keys.
            vdi.set_name_label(session, ref, disk.name)
            vdi.set_other_config(session, ref, disk.keys)
        except BaseException:
            vdi.destroy(session, ref)
            raise
        return ref

    def _drop_twins(self, entry: vdi.VdiRecord, image_id: str) -> None:
        """Destroy a clone that the host made but never told us of.

        We hold the image's lock, so on an SR of our own it can be nothing else;
        on a shared SR it may be another node's, and is left alone.
        """
        if self._home.sr.shared:
            return
        try:
            for twin in self.entries(image_id):
                if twin.ref != entry.ref:
                    vdi.destroy(self._home.session, twin.ref)
        except errors.XapiError as exc:
            # The caller raises what came first; this is only its clean-up.
            LOG.warning("A clone of image %s may be left: %s", image_id, exc)

    def _mark(self, record: vdi.VdiRecord, image_id: str) -> None:
        session = self._home.session
        # The key first: an entry counts only with both, so one that is half
        # marked is never cloned.
        vdi.set_other_config(
            session, record.ref, {**record.other_config, IMAGE_ID_KEY: image_id}
        )
        vdi.set_name_label(session, record.ref, label(image_id))

    @contextmanager
    def _only_one(self, image_id: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(image_id, (threading.Lock(), 0))
            self._locks[image_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[image_id]
                if users == 1:
                    del self._locks[image_id]
                else:
                    self._locks[image_id] = (lock, users - 1)
