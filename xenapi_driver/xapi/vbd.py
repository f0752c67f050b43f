# SPDX-License-Identifier: Apache-2.0
"""XAPI's VBD: a disk, or an empty drive, in a VM."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client, existing, or_none


@dataclasses.dataclass(frozen=True, slots=True)
class VbdRecord:
    """What we read of one ``VBD.get_record``: a snapshot, not a live object.

    :ivar vdi: VDI reference, None for an empty drive
    :ivar device: name in the guest such as ``xvda``; empty before the first plug
    :ivar userdevice: position, decimal text
    :ivar mode: RW or RO
    :ivar type: Disk, CD or Floppy
    """

    XAPI_CLASS: ClassVar[str] = "VBD"
    OWNER: ClassVar[str] = "vm"

    ref: str
    uuid: str
    vm: str
    vdi: str | None
    device: str
    userdevice: str
    bootable: bool
    mode: str
    type: str
    currently_attached: bool
    other_config: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VbdRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            vm=rec["VM"],
            vdi=or_none(rec["VDI"]),
            device=rec["device"],
            userdevice=rec["userdevice"],
            bootable=rec["bootable"],
            mode=rec["mode"],
            type=rec["type"],
            currently_attached=rec["currently_attached"],
            other_config=rec["other_config"],
        )


def get(session: Client, ref: str) -> VbdRecord:
    """Return the VBD.

    :raises HandleInvalid: it is gone
    """
    return existing(session, VbdRecord, ref)


def of_vm(session: Client, vm_ref: str) -> list[VbdRecord]:
    """Return all VBDs of a VM."""
    return list(session.records[VbdRecord].owned_by(vm_ref))


def create(session: Client, record: Mapping[str, Any]) -> str:
    """Create a VBD from its complete record; return its reference.

    A halted VM has it when it starts; a running one needs :func:`plug`.
    """
    return str(session.call("VBD.create", record))


def plug(session: Client, ref: str) -> None:
    """Plug a VBD into its running VM.

    :raises VmLacksFeature: the guest has no drivers for it
    """
    session.call("VBD.plug", ref)


def unplug(session: Client, ref: str) -> None:
    """Unplug a VBD from its running VM; already out counts as done.

    :raises DeviceDetachRejected: the guest still uses it: ask again later
    """
    with contextlib.suppress(errors.DeviceAlreadyDetached):
        session.call("VBD.unplug", ref)


def destroy(session: Client, ref: str) -> None:
    """Remove an unplugged VBD, not its disk; gone counts as done.

    :raises OperationNotAllowed: it is plugged
    """
    with contextlib.suppress(errors.HandleInvalid):
        session.call("VBD.destroy", ref)
