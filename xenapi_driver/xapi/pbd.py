# SPDX-License-Identifier: Apache-2.0
"""XAPI's PBD: the connection of a host to an SR."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client


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


def of_host_sr(session: Client, host_ref: str, sr_ref: str) -> PbdRecord | None:
    """Return the plugged PBD between a host and an SR, None when there is none."""
    for one in session.records[PbdRecord].owned_by(sr_ref):
        if one.host == host_ref and one.currently_attached:
            return one
    return None
