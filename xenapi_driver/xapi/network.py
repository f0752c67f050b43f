# SPDX-License-Identifier: Apache-2.0
"""XAPI's network: a bridge, or the promise of one, on the hosts of a pool."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client, only


@dataclasses.dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What we read of one ``network.get_record``: a snapshot, not a live object.

    :ivar managed: False for a bridge that XAPI uses but does not make
    """

    XAPI_CLASS: ClassVar[str] = "network"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    name_label: str
    bridge: str
    managed: bool
    pifs: tuple[str, ...]
    other_config: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> NetworkRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            bridge=rec["bridge"],
            managed=rec.get("managed", True),  # since XenServer 7.2
            pifs=tuple(rec["PIFs"]),
            other_config=rec["other_config"],
        )


def find_by_bridge(session: Client, bridge: str) -> NetworkRecord | None:
    """Return the network on this bridge.

    :raises NotUnique: several say that they are
    """
    networks = session.records[NetworkRecord].values()
    return only("network", bridge, [one for one in networks if one.bridge == bridge])


def find_by_name(session: Client, name: str) -> NetworkRecord | None:
    """Return the network with this name.

    :raises NotUnique: several have it
    """
    return only("network", name, session.records[NetworkRecord].named(name))


def create(session: Client, record: Mapping[str, Any]) -> str:
    """Create a network from its complete record; return its reference."""
    return str(session.call("network.create", record))


def destroy(session: Client, ref: str) -> None:
    """Remove a network that nothing is plugged into; gone counts as done."""
    with contextlib.suppress(errors.HandleInvalid):
        session.call("network.destroy", ref)
