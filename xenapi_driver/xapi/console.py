# SPDX-License-Identifier: Apache-2.0
"""XAPI's console: a VM's screen or text console, as a tunnel through its host.

The only way in is the ``/console`` handler of the host that runs the VM: there is
no VNC port ("XAPI today", section 14). Consoles are replaced whenever the VM's
domain is, at a start or a migration: look them up for each connection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from xenapi_driver.xapi import errors, handlers, vm
from xenapi_driver.xapi.client import Client

Protocol = Literal["rfb", "vt100"]

_TAKEN = 503  # pool.limit_console_sessions, since XAPI 26.1


class NoConsole(errors.XapiError):
    """A VM has no such console now, in words that say why."""

    def __init__(self, vm_name: str, reason: str) -> None:
        super().__init__(vm_name, reason)
        self.vm_name = vm_name
        self.reason = reason

    def __str__(self) -> str:
        return f"There is no console of VM {self.vm_name}: {self.reason}."


@dataclasses.dataclass(frozen=True, slots=True)
class ConsoleRecord:
    """What we read of one ``console.get_record``: a snapshot, not a live object.

    :ivar protocol: rfb, vt100 or rdp
    """

    XAPI_CLASS: ClassVar[str] = "console"
    OWNER: ClassVar[str] = "vm"

    ref: str
    uuid: str
    vm: str
    protocol: str

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> ConsoleRecord:
        return cls(ref=ref, uuid=rec["uuid"], vm=rec["VM"], protocol=rec["protocol"])


@dataclasses.dataclass(frozen=True)
class Console:
    """Where a console is.

    :ivar ref: its reference, valid as long as the VM's domain
    :ivar host_ref: the host that runs the VM
    """

    ref: str
    protocol: str
    vm_ref: str
    vm_name: str
    host_ref: str


def find(session: Client, vm_ref: str, protocol: Protocol = "rfb") -> Console:
    """Return a running VM's console.

    :raises NoConsole: it does not run, or has none of this protocol
    :raises HandleInvalid: there is no such VM
    """
    record = vm.get(session, vm_ref)
    if record.power_state != "Running" or record.resident_on is None:
        reason = f"it is {record.power_state.lower()}, and only a running VM has one"
        raise NoConsole(record.name_label, reason)
    for one in session.records[ConsoleRecord].owned_by(vm_ref):
        if one.protocol == protocol:
            name, host_ref = record.name_label, record.resident_on
            return Console(one.ref, protocol, vm_ref, name, host_ref)
    raise NoConsole(record.name_label, f"it has none that speaks {protocol}")


def connect(session: Client, console: Console) -> socket.socket:
    """Return a socket on which the console's own protocol begins at once.

    It blocks, has no time-out, and belongs to the caller, who closes it. With an
    https URL it is a TLS socket whose peer has been verified: OpenSSL takes one
    thread at a time there, so that a relay has to wait outside of it.

    :raises NoConsole: it is gone, or somebody else looks at it
    :raises HostUnreachable: no connection to the host that runs the VM
    :raises CertificateRefused: that host shows a certificate that is not trusted
    :raises ConnectionLost: cut before the console answered
    """
    request = handlers.Request("CONNECT", "/console", {"ref": console.ref})
    try:
        talk = handlers.ask(session, request, console.host_ref)
    except handlers.HandlerRefused as exc:
        if exc.status == _TAKEN:
            reason = "somebody else looks at it, and the pool allows only one"
        else:
            reason = _why(session, console)
        raise NoConsole(console.vm_name, reason) from exc
    return talk.taken_over()


def _why(session: Client, console: Console) -> str:
    with contextlib.suppress(errors.HandleInvalid):
        record = vm.get(session, console.vm_ref)
        if record.power_state != "Running":
            return f"it is {record.power_state.lower()} by now"
        if record.resident_on != console.host_ref:
            return "it has moved to another host meanwhile"
        return "it was started anew, or the host has closed it; look it up again"
    return "the VM was destroyed"
