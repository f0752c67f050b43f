# SPDX-License-Identifier: Apache-2.0
"""XAPI's PBD: the connection of a host to an SR."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client, Fields, matching


@dataclasses.dataclass(frozen=True, slots=True)
class PbdRecord:
    """What we read of one ``PBD.get_record``: a snapshot, not a live object."""

    XAPI_CLASS: ClassVar[str] = "PBD"
    OWNER: ClassVar[str] = "sr"

    ref: str
    uuid: str
    host: str
    sr: str
    device_config: Mapping[str, str]
    currently_attached: bool

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> PbdRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            host=rec["host"],
            sr=rec["SR"],
            device_config=rec["device_config"],
            currently_attached=rec["currently_attached"],
        )


def of_host(session: Client, host_ref: str) -> list[PbdRecord]:
    """Return the plugged PBDs of a host."""
    fields: Fields = {"host": host_ref, "currently_attached": True}
    found = matching(session, "PBD", fields)
    return [PbdRecord.from_xapi(ref, rec) for ref, rec in found.items()]


def of_host_sr(session: Client, host_ref: str, sr_ref: str) -> PbdRecord | None:
    """Return the plugged PBD between a host and an SR, None when there is none."""
    fields: Fields = {"host": host_ref, "SR": sr_ref, "currently_attached": True}
    for ref, rec in matching(session, "PBD", fields).items():
        return PbdRecord.from_xapi(ref, rec)
    return None
