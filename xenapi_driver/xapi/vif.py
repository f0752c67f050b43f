# SPDX-License-Identifier: Apache-2.0
"""XAPI's VIF: a network interface of a VM."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client


@dataclasses.dataclass(frozen=True, slots=True)
class VifRecord:
    """What we read of one ``VIF.get_record``: a snapshot, not a live object.

    :ivar device: position, decimal text
    """

    XAPI_CLASS: ClassVar[str] = "VIF"
    OWNER: ClassVar[str] = "vm"

    ref: str
    uuid: str
    vm: str
    network: str
    device: str
    mac: str
    mtu: int
    currently_attached: bool
    other_config: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VifRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            vm=rec["VM"],
            network=rec["network"],
            device=rec["device"],
            mac=rec["MAC"],
            mtu=int(rec["MTU"]),
            currently_attached=rec["currently_attached"],
            other_config=rec["other_config"],
        )


def of_vm(session: Client, vm_ref: str) -> list[VifRecord]:
    """Return all VIFs of a VM."""
    return list(session.records[VifRecord].owned_by(vm_ref))


def create(session: Client, record: Mapping[str, Any]) -> str:
    """Create a VIF from its complete record; return its reference."""
    return str(session.call("VIF.create", record))


def plug(session: Client, ref: str) -> None:
    """Plug a VIF into its running VM."""
    session.call("VIF.plug", ref)


def unplug(session: Client, ref: str) -> None:
    """Unplug a VIF from its running VM; already out counts as done."""
    with contextlib.suppress(errors.DeviceAlreadyDetached):
        session.call("VIF.unplug", ref)


def destroy(session: Client, ref: str) -> None:
    """Remove an unplugged VIF; gone counts as done."""
    with contextlib.suppress(errors.HandleInvalid):
        session.call("VIF.destroy", ref)
