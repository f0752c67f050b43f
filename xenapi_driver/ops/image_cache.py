# SPDX-License-Identifier: Apache-2.0
"""Keep the image cache in order: what is used stays, what is not ages and goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import entries, fetching, kernels, kinds, left_overs
from xenapi_driver.images import source as image_source
from xenapi_driver.images.cache import ImageCache
from xenapi_driver.images.entries import Entry
from xenapi_driver.images.handlers import Handler
from xenapi_driver.xapi import errors, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

HOUR = 3600
DAY = 24 * HOUR


@dataclass(frozen=True)
class Ageing:
    """Nova's ``[image_cache]`` options.

    :ivar remove: whether unused entries go at all (``remove_unused_base_images``)
    :ivar minimum_seconds: for how long they must have been unused
        (``remove_unused_original_minimum_age_seconds``)
    """

    remove: bool
    minimum_seconds: int


def warn_of_place(path: str) -> None:
    """Warn where Nova will not get as far as a pass over the cache.

    :param path: ``[DEFAULT] instances_path``, in which Nova notes who shares it
    """
    if not os.access(path, os.W_OK):
        LOG.warning(
            "Unused images stay in the cache: Nova notes in [DEFAULT] instances_path = "
            "%s which services share one, and nova-compute cannot write there. Make "
            "this folder for its user.",
            path,
        )


def images_of(instances: Iterable[Any]) -> set[str]:
    """Return the images that Nova's instances were made from."""
    return {one.image_ref for one in instances if one.image_ref}


class Keeper:
    """Looks after one SR's cache, pass by pass.

    An entry is used while a disk shares its blocks, or while a server of Nova's was
    made from its image. When that ends the entry is marked with the time, so that
    its age survives this service; a pass over a cache that stays as it is asks
    the host nothing, but for the kernels in dom0, once a day.
    """

    def __init__(self, home: Home, cache: ImageCache, handler: Handler) -> None:
        self._home = home
        self._cache = cache
        self._handler = handler
        self._seen: set[str] = set()
        self._swept: float | None = None

    def warm(
        self,
        context: Any,
        image_id: str,
        progress: Callable[[float], None] | None = None,
    ) -> bool:
        """See that an image is cached; return whether it had to be fetched.

        :param context: Nova's request context, with the token to fetch it by
        :param progress: called with 0.0 to 1.0
        :raises exceptions.NotSupportedYet: images of its kind are never cached
        :raises exceptions.DriverError: it could not be fetched
        :raises errors.XapiError: the host refused
        """

        def fetch() -> vdi.VdiRecord:
            source = image_source.open_image(
                context, image_id, signed=self._handler.rules.signatures
            )
            kind = kinds.kind(image_id, source.disk_format, source.container_format)
            if kind not in kinds.DISKS:
                raise exceptions.NotSupportedYet(
                    f"Image {image_id} is of the kind {kind}, which is not cached."
                )
            return fetching.fetch(self._handler, source, None, progress)

        return self._cache.warm(image_id, fetch)

    def __call__(
        self, ageing: Ageing, in_use: Collection[str], now: float | None = None
    ) -> list[Entry]:
        """Do one pass and return the entries that were removed.

        One that the host does not let go is told in the log and stays.

        :param in_use: images of Nova's servers, ours and those of whom we share with
        :param now: seconds since 1970
        :raises errors.XapiError: the host is not heard
        """
        now = time.time() if now is None else now
        removed = []
        found = entries.look(self._home.session, self._home.sr)
        for entry in found:
            try:
                if self._looked_after(entry, ageing, in_use, now):
                    removed.append(entry)
            except errors.XapiFailure as exc:
                LOG.warning("Cached image %(image)s (VDI %(vdi)s) stays: %(why)s",
                            {"image": entry.image_id, "vdi": entry.vdi.uuid,
                             "why": exc})  # fmt: skip
        strays = left_overs.remove_strays(self._home, self._seen)
        self._seen = strays | {one.vdi.uuid for one in found if one.twin}
        if ageing.remove and (self._swept is None or now - self._swept >= DAY):
            self._swept = now
            self._sweep_dom0(max(ageing.minimum_seconds, HOUR))
        return removed

    def _sweep_dom0(self, seconds: int) -> None:
        """Remove kernels and ramdisks that no VM names; only dom0 knows of them."""
        try:
            gone = kernels.sweep(self._home.session, seconds)
        except errors.XapiError as exc:
            LOG.warning("Unused kernels may stay in dom0: %s", exc)
            return
        for path in gone:
            LOG.info("Removed %s from dom0: no server was started from it for %d s.",
                     path, seconds)  # fmt: skip

    def _looked_after(
        self, entry: Entry, ageing: Ageing, in_use: Collection[str], now: float
    ) -> bool:
        if entry.busy:
            return False
        if entry.twin:
            # On a shared SR another service may be about to name it.
            settled = not self._home.sr.shared or entry.vdi.uuid in self._seen
            return settled and self._removed(entry, "a build was killed over it")
        if not ageing.remove:
            return False
        # Builds take the oldest entry: a spare one serves nobody, whoever shares it.
        used = not entry.spare and (bool(entry.users) or entry.image_id in in_use)
        since = max(
            entry.unused_since or now, self._cache.taken_at(entry.image_id) or 0.0
        )
        if used:
            if entry.unused_since is not None:
                self._note(entry, None)
            return False
        if now - since < ageing.minimum_seconds:
            if entry.unused_since != int(since):
                self._note(entry, since)
            return False
        return self._removed(entry, f"unused for {int(now - since)} s")

    def _note(self, entry: Entry, since: float | None) -> None:
        """Write down since when an entry is unused; None: it is used."""
        kept = entries.without(entry.vdi.other_config, entries.UNUSED_SINCE_KEY)
        if since is not None:
            kept[entries.UNUSED_SINCE_KEY] = str(int(since))
        vdi.set_other_config(self._home.session, entry.vdi.ref, kept)

    def _removed(self, entry: Entry, why: str) -> bool:
        with self._cache.idle(entry.image_id) as idle:
            if not idle or not left_overs.remove_entry(self._home, entry):
                return False
        LOG.info("Removed image %(image)s from the cache (VDI %(vdi)s): %(why)s.",
                 {"image": entry.image_id, "vdi": entry.vdi.uuid,
                  "why": why})  # fmt: skip
        return True


@dataclass(frozen=True)
class Choice:
    """Which entries an operator wants removed.

    :ivar used_too: not only those that no disk shares blocks with
    :ivar keep_days: those are kept that were cached less than this many days ago,
        or nobody knows when; None: age does not matter
    :ivar images: only these images; empty for all
    """

    used_too: bool = False
    keep_days: float | None = None
    images: Sequence[str] = ()

    def takes(self, entry: Entry, now: float | None = None) -> bool:
        """Tell whether an entry is to go."""
        if entry.twin or entry.busy:
            return False
        if self.images and entry.image_id not in self.images:
            return False
        if entry.users and not entry.spare and not self.used_too:
            return False
        if self.keep_days is None:
            return True
        age = entry.age(now)
        return age is not None and age >= self.keep_days * DAY
