# SPDX-License-Identifier: Apache-2.0
"""XAPI's PIF: an interface of a host, physical, bonded or tagged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client


@dataclasses.dataclass(frozen=True, slots=True)
class PifRecord:
    """What we read of one ``PIF.get_record``: a snapshot, not a live object.

    :ivar device: its name in dom0, such as ``eth0``
    :ivar ip: its IPv4 address, "" where it has none
    :ivar ipv6: its IPv6 addresses with prefix length
    """

    XAPI_CLASS: ClassVar[str] = "PIF"
    OWNER: ClassVar[str] = "host"

    ref: str
    uuid: str
    device: str
    host: str
    network: str
    ip: str
    ipv6: tuple[str, ...]
    management: bool
    currently_attached: bool

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> PifRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            device=rec["device"],
            host=rec["host"],
            network=rec["network"],
            ip=rec["IP"],
            ipv6=tuple(address for address in rec["IPv6"] if address),
            management=rec["management"],
            currently_attached=rec["currently_attached"],
        )


def management(session: Client, host_ref: str) -> PifRecord | None:
    """Return the interface over which a host is managed, None where it has none."""
    for one in session.records[PifRecord].owned_by(host_ref):
        if one.management:
            return one
    return None
