# SPDX-License-Identifier: Apache-2.0
"""What of an SR is cache: entries, who shares their blocks, and what a kill left.

A cached image is a VDI named ``Glance Image <id>`` with ``other_config:image-id``;
both are what earlier releases wrote and clean-up tools look for. A copy of a VDI
begins with its name and keys. So an entry also names itself: a disk that bears
another's UUID was copied from it and never became a server's, and is no entry.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from xenapi_driver.xapi import sr, vdi
from xenapi_driver.xapi.client import Client

IMAGE_ID_KEY = "image-id"
# When it was cached and since when nothing uses it: seconds since 1970, as text.
CACHED_TIME_KEY = "cached-time"
UNUSED_SINCE_KEY = "unused-since"
# The entry's own UUID; entries of earlier releases are without.
ENTRY_KEY = "cache-entry"

_LABEL = "Glance Image "

# Longer than any chain that a storage manager accepts; ends a chain that is a ring.
_LONGEST_CHAIN = 64


def label(image_id: str) -> str:
    """Return the name label of the image's cache entry."""
    return f"{_LABEL}{image_id}"


def keys(image_id: str, uuid: str, cached_at: float | None) -> dict[str, str]:
    """Return the other_config of a new entry.

    :param uuid: the VDI's own
    :param cached_at: seconds since 1970; None for one that never said
    """
    found = {IMAGE_ID_KEY: image_id, ENTRY_KEY: uuid}
    if cached_at is not None:
        found[CACHED_TIME_KEY] = str(int(cached_at))
    return found


def seconds(record: vdi.VdiRecord, key: str) -> float | None:
    """Return a time of an entry, in seconds since 1970; None where it has none."""
    try:
        return float(record.other_config[key])
    except (KeyError, ValueError):
        return None


def image_of(record: vdi.VdiRecord) -> str | None:
    """Return the image that a disk is, or was copied from, an entry of.

    None for every other disk, a server's among them.
    """
    image_id = record.other_config.get(IMAGE_ID_KEY)
    if not image_id or not record.managed:
        return None
    named = record.name_label == label(image_id)
    return image_id if named or is_twin(record) else None


def is_twin(record: vdi.VdiRecord) -> bool:
    """Tell whether a disk is a copy of an entry and not a server's disk (yet)."""
    return record.other_config.get(ENTRY_KEY, record.uuid) != record.uuid


def of_image(
    session: Client, storage: sr.SrRecord, image_id: str
) -> list[vdi.VdiRecord]:
    """Return the image's entries on an SR, the oldest first; [] when not cached.

    There are several where more than one service filled the cache of a shared SR.
    """
    named = vdi.find_by_name(session, label(image_id), storage.ref)
    found = [one for one in named if image_of(one) == image_id and not is_twin(one)]
    return sorted(found, key=_age_first)


def twins_of(
    session: Client, storage: sr.SrRecord, image_id: str
) -> list[vdi.VdiRecord]:
    """Return copies of the image's entries that are no server's disks (yet)."""
    disks = vdi.in_sr(session, storage.ref)
    return [one for one in disks if image_of(one) == image_id and is_twin(one)]


def _age_first(record: vdi.VdiRecord) -> tuple[float, str]:
    return seconds(record, CACHED_TIME_KEY) or 0.0, record.uuid


@dataclass(frozen=True)
class Entry:
    """A disk that is, or looks like, a cached image.

    :ivar users: UUIDs of other disks that share blocks with it, sorted
    :ivar twin: it is a copy of an entry that a build was killed over
    :ivar spare: the SR has an older entry of the image, which builds take
    """

    vdi: vdi.VdiRecord
    image_id: str
    users: tuple[str, ...]
    twin: bool = False
    spare: bool = False

    @property
    def cached_at(self) -> float | None:
        """When it was cached, in seconds since 1970; None when nobody noted it."""
        return seconds(self.vdi, CACHED_TIME_KEY)

    @property
    def unused_since(self) -> float | None:
        """Since when nothing uses it, likewise; None while something does."""
        return seconds(self.vdi, UNUSED_SINCE_KEY)

    @property
    def busy(self) -> bool:
        """Whether the host is at work on it, or has it plugged for a copy."""
        return bool(self.vdi.vbds or self.vdi.current_operations)

    @property
    def state(self) -> str:
        """``left-over``, ``busy``, ``used`` or ``unused``."""
        if self.twin:
            return "left-over"
        if self.busy:
            return "busy"
        return "used" if self.users else "unused"

    def age(self, now: float | None = None) -> float | None:
        """Return the seconds since it was cached, None when nobody noted that."""
        if self.cached_at is None:
            return None
        return max((time.time() if now is None else now) - self.cached_at, 0.0)


def look(session: Client, storage: sr.SrRecord) -> list[Entry]:
    """Return all that is, or looks like, cache on an SR, by image. No request."""
    disks = vdi.in_sr(session, storage.ref)
    claims = [(one, image_of(one)) for one in disks]
    cached = [(one, image) for one, image in claims if image is not None]
    servants = {one.uuid for one, _image in cached}
    families = Families(disks)
    first: dict[str, vdi.VdiRecord] = {}
    for one, image in cached:
        if not is_twin(one):
            first[image] = min(first.get(image, one), one, key=_age_first)
    found = [
        Entry(
            vdi=one,
            image_id=image,
            users=tuple(sorted(families.relatives(one.uuid, servants))),
            twin=is_twin(one),
            spare=not is_twin(one) and first[image] != one,
        )
        for one, image in cached
    ]
    return sorted(found, key=lambda one: (one.image_id, one.spare, _age_first(one.vdi)))


class Families:
    """Which disks of an SR share blocks, by the parents that the host tells of."""

    def __init__(self, disks: Iterable[vdi.VdiRecord]) -> None:
        self._parents: dict[str, str] = {}
        self._below: defaultdict[str, set[str]] = defaultdict(set)
        managed = []
        for one in disks:
            if parent := one.sm_config.get("vhd-parent"):
                self._parents[one.uuid] = parent
            if one.managed:
                managed.append(one.uuid)
        for uuid in managed:
            for ancestor in self.chain(uuid):
                self._below[ancestor].add(uuid)

    def chain(self, uuid: str) -> list[str]:
        """Return the disk and its parents, itself first, down to the base."""
        found = [uuid]
        while len(found) < _LONGEST_CHAIN:
            parent = self._parents.get(found[-1])
            if parent is None or parent in found:
                break
            found.append(parent)
        return found

    def relatives(self, uuid: str, apart: Collection[str] = ()) -> set[str]:
        """Return the managed disks that share blocks with one, itself left out."""
        found: set[str] = set()
        for ancestor in self.chain(uuid):
            found |= self._below.get(ancestor, set())
        return found.difference(apart, (uuid,))


def without(other_config: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return a disk's keys but these."""
    return {key: value for key, value in other_config.items() if key not in names}
