# SPDX-License-Identifier: Apache-2.0
"""XAPI's SR: a storage repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client, existing


@dataclasses.dataclass(frozen=True, slots=True)
class SrRecord:
    """What we read of one ``SR.get_record``: a snapshot, not a live object.

    :ivar physical_size: bytes, as of the last scan; -1 before the first
    :ivar physical_utilisation: bytes in use, likewise
    :ivar virtual_allocation: sum of the disks' virtual sizes, bytes
    """

    XAPI_CLASS: ClassVar[str] = "SR"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    name_label: str
    type: str
    content_type: str
    shared: bool
    physical_size: int
    physical_utilisation: int
    virtual_allocation: int
    pbds: tuple[str, ...]
    other_config: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> SrRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            type=rec["type"],
            content_type=rec["content_type"],
            shared=rec["shared"],
            physical_size=int(rec["physical_size"]),
            physical_utilisation=int(rec["physical_utilisation"]),
            virtual_allocation=int(rec["virtual_allocation"]),
            pbds=tuple(rec["PBDs"]),
            other_config=rec["other_config"],
        )

    @property
    def free_bytes(self) -> int:
        """Bytes left, as of the last scan; 0 or more."""
        return max(self.physical_size - self.physical_utilisation, 0)


def get(session: Client, ref: str) -> SrRecord:
    """Return the SR.

    :raises HandleInvalid: it is gone
    """
    return existing(session, SrRecord, ref)


def all(session: Client) -> list[SrRecord]:
    """Return every SR of the pool."""
    return list(session.records[SrRecord].values())


def scan(session: Client, ref: str) -> None:
    """Make XAPI read the SR again: files put there become VDIs.

    Blocks as long as the driver reads, which may outlast a read time-out.
    """
    session.call("SR.scan", ref)
    # Which disks it found, or found gone, it does not say.
    session.events.doubt()
