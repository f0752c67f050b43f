# SPDX-License-Identifier: Apache-2.0
"""XAPI's VDI: a virtual disk on an SR."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client, existing, or_none

# How long the event of a disk that a scan found may take.
_SCAN_EVENT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class VdiRecord:
    """What we read of one ``VDI.get_record``: a snapshot, not a live object.

    :ivar virtual_size: bytes that a guest sees
    :ivar physical_utilisation: bytes that it takes in the SR
    :ivar managed: False for a hidden parent that others are based on
    :ivar current_operations: names by the reference of the task
    :ivar snapshot_of: the disk that it is a snapshot of; None for one that is none, or
        whose original is gone
    """

    XAPI_CLASS: ClassVar[str] = "VDI"
    OWNER: ClassVar[str] = "sr"

    ref: str
    uuid: str
    name_label: str
    virtual_size: int
    physical_utilisation: int
    sr: str
    vbds: tuple[str, ...]
    other_config: Mapping[str, str]
    sm_config: Mapping[str, str]
    managed: bool
    current_operations: Mapping[str, str]
    is_a_snapshot: bool
    snapshot_of: str | None

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VdiRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            virtual_size=int(rec["virtual_size"]),
            physical_utilisation=int(rec["physical_utilisation"]),
            sr=rec["SR"],
            vbds=tuple(rec["VBDs"]),
            other_config=rec["other_config"],
            sm_config=rec["sm_config"],
            managed=rec["managed"],
            current_operations=rec["current_operations"],
            is_a_snapshot=rec["is_a_snapshot"],
            snapshot_of=or_none(rec["snapshot_of"]),
        )


def get(session: Client, ref: str) -> VdiRecord:
    """Return the disk.

    :raises HandleInvalid: it is gone
    """
    return existing(session, VdiRecord, ref)


def by_uuid(session: Client, uuid: str) -> VdiRecord:
    """Return the disk with this UUID.

    :raises UuidInvalid: there is none
    """
    record = session.records[VdiRecord].by_uuid(uuid)
    if record is None:
        raise errors.UuidInvalid("UUID_INVALID", ("VDI", uuid), "VDI.get_by_uuid")
    return record


def find_by_name(
    session: Client, name: str, sr_ref: str | None = None
) -> list[VdiRecord]:
    """Return the managed disks with this name, on one SR or on any."""
    return [
        one
        for one in session.records[VdiRecord].named(name)
        if one.managed and sr_ref in (None, one.sr)
    ]


def in_sr(session: Client, sr_ref: str) -> list[VdiRecord]:
    """Return all disks of an SR, hidden parents included."""
    return list(session.records[VdiRecord].owned_by(sr_ref))


def found_by_scan(session: Client, sr_ref: str, uuid: str) -> VdiRecord:
    """Have the SR read again and return the disk that was put into it.

    One request where the event of the new disk comes soon, as it does.

    :raises UuidInvalid: the SR did not find it
    """
    session.call("SR.scan", sr_ref)
    if not session.events.until(
        lambda now: now[VdiRecord].by_uuid(uuid) is not None, _SCAN_EVENT_SECONDS
    ):
        session.events.doubt()
    return by_uuid(session, uuid)


def new_record(
    sr_ref: str,
    size: int,
    name: str = "",
    description: str = "",
    other_config: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the complete record of an empty disk, for :func:`create`.

    :param size: bytes; the SR may round up
    """
    return {
        "name_label": name,
        "name_description": description,
        "SR": sr_ref,
        "virtual_size": size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": dict(other_config or {}),
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }


def create(session: Client, record: Mapping[str, Any]) -> str:
    """Create an empty disk from its complete record; return its reference.

    :raises SrFull: no room
    """
    return str(session.call("VDI.create", record))


def clone(
    session: Client, ref: str, driver_params: Mapping[str, str] | None = None
) -> str:
    """Clone a disk on its own SR, copy-on-write where the SR can; return the new.

    Name and other_config are those of the original.
    """
    return str(session.call("VDI.clone", ref, driver_params or {}))


def snapshot(session: Client, ref: str) -> str:
    """Keep a disk as it is now, in use or not; return the snapshot.

    Name and other_config are those of the original.

    :raises SrFull: no room
    """
    return str(session.call("VDI.snapshot", ref, {}))


def snapshots_of(session: Client, ref: str) -> list[VdiRecord]:
    """Return the snapshots of a disk, whoever made them."""
    return [
        one for one in session.records[VdiRecord].values() if one.snapshot_of == ref
    ]


def copy(
    session: Client,
    ref: str,
    sr_ref: str,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Copy a disk in full to an SR; return the new one. Blocks for long.

    :raises SrFull: no room there
    """
    return str(session.task("Async.VDI.copy", ref, sr_ref, progress=progress))


def resize(session: Client, ref: str, size: int) -> None:
    """Make a disk larger, which nothing may have plugged.

    :param size: bytes; the SR may round up
    :raises VdiInUse: something has
    :raises SrFull: no room
    """
    session.call("VDI.resize", ref, size)


def destroy(session: Client, ref: str) -> None:
    """Destroy a disk; one that no longer exists counts as destroyed.

    :raises VdiInUse: it is plugged somewhere
    """
    with contextlib.suppress(errors.HandleInvalid):
        session.call("VDI.destroy", ref)


def set_name_label(session: Client, ref: str, name: str) -> None:
    """Rename a disk."""
    session.call("VDI.set_name_label", ref, name)


def set_name_description(session: Client, ref: str, text: str) -> None:
    """Describe a disk."""
    session.call("VDI.set_name_description", ref, text)


def set_other_config(
    session: Client, ref: str, other_config: Mapping[str, str]
) -> None:
    """Replace a disk's other_config as a whole."""
    session.call("VDI.set_other_config", ref, other_config)
