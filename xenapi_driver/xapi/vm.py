# SPDX-License-Identifier: Apache-2.0
"""XAPI's VM: Nova's servers, and also templates, snapshots and dom0 itself."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client, existing, only, or_none

# The key in other_config that makes a VM a server of Nova's (since Icehouse).
NOVA_UUID = "nova_uuid"
# What XAPI blocks apart, though both start a VM.
STARTS = ("start", "start_on")


@dataclasses.dataclass(frozen=True, slots=True)
class VmRecord:
    """What we read of one ``VM.get_record``: a snapshot, not a live object.

    :ivar power_state: Halted, Running, Paused or Suspended
    :ivar domid: -1 when there is no domain
    :ivar resident_on: host reference, None when it does not run
    :ivar scheduled_on: host reference while it is being started or moved there
    :ivar affinity: host reference or None; stays when the VM is halted
    :ivar memory_static_max: bytes, as memory_dynamic_min and memory_overhead
    :ivar domain_type: hvm, pvh, pv, pv_in_pvh or unspecified
    :ivar current_operations: names by the reference of the task
    :ivar blocked_operations: why each operation is refused, by its name
    :ivar pv_kernel: path in dom0, "" for a guest that is not booted from one
    :ivar pv_ramdisk: likewise
    """

    XAPI_CLASS: ClassVar[str] = "VM"
    OWNER: ClassVar[str] = "home"

    ref: str
    uuid: str
    name_label: str
    power_state: str
    domid: int
    resident_on: str | None
    scheduled_on: str | None
    affinity: str | None
    vbds: tuple[str, ...]
    vifs: tuple[str, ...]
    other_config: Mapping[str, str]
    memory_static_max: int
    memory_dynamic_min: int
    memory_overhead: int
    vcpus_max: int
    domain_type: str
    is_a_template: bool
    is_a_snapshot: bool
    is_control_domain: bool
    guest_metrics: str | None
    xenstore_data: Mapping[str, str]
    current_operations: Mapping[str, str]
    blocked_operations: Mapping[str, str]
    pv_kernel: str = ""
    pv_ramdisk: str = ""

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VmRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            power_state=rec["power_state"],
            domid=int(rec["domid"]),
            resident_on=or_none(rec["resident_on"]),
            scheduled_on=or_none(rec["scheduled_to_be_resident_on"]),
            affinity=or_none(rec["affinity"]),
            vbds=tuple(rec["VBDs"]),
            vifs=tuple(rec["VIFs"]),
            other_config=rec["other_config"],
            memory_static_max=int(rec["memory_static_max"]),
            memory_dynamic_min=int(rec["memory_dynamic_min"]),
            memory_overhead=int(rec["memory_overhead"]),
            vcpus_max=int(rec["VCPUs_max"]),
            domain_type=rec.get("domain_type", "unspecified"),  # since 7.5
            is_a_template=rec["is_a_template"],
            is_a_snapshot=rec["is_a_snapshot"],
            is_control_domain=rec["is_control_domain"],
            guest_metrics=or_none(rec["guest_metrics"]),
            xenstore_data=rec["xenstore_data"],
            current_operations=rec["current_operations"],
            blocked_operations=rec["blocked_operations"],
            pv_kernel=rec["PV_kernel"],
            pv_ramdisk=rec["PV_ramdisk"],
        )

    @property
    def is_server(self) -> bool:
        """Whether it is one of Nova's, and no template, snapshot or dom0."""
        return self.nova_uuid is not None and not (
            self.is_a_template or self.is_a_snapshot or self.is_control_domain
        )

    @property
    def home(self) -> str | None:
        """The host that the VM belongs to, None for one of nobody.

        That is its affinity, which Nova's servers have: they keep it while they
        are halted, and when an operator moves them by other means than Nova.
        """
        return self.affinity or self.resident_on

    @property
    def memory_needed(self) -> int:
        """Bytes that it takes from its host, by XAPI's own rule for free memory.

        A PV guest in its shim cannot give any of its memory back.
        """
        fixed = self.domain_type == "pv_in_pvh"
        own = self.memory_static_max if fixed else self.memory_dynamic_min
        return own + self.memory_overhead

    @property
    def nova_uuid(self) -> str | None:
        """The UUID of Nova's instance, None for a VM that is not Nova's."""
        return self.other_config.get(NOVA_UUID)


def get(session: Client, ref: str) -> VmRecord:
    """Return the VM.

    :raises HandleInvalid: it is gone
    """
    return existing(session, VmRecord, ref)


def find_by_uuid(session: Client, uuid: str) -> VmRecord | None:
    """Return the VM with this UUID, None when there is none."""
    return session.records[VmRecord].by_uuid(uuid)


def _named(session: Client, name: str) -> list[VmRecord]:
    found = session.records[VmRecord].named(name)
    return [one for one in found if not (one.is_a_template or one.is_a_snapshot)]


def name_is_taken(session: Client, name: str) -> bool:
    """Tell whether any VM has this name; templates and snapshots do not count."""
    return bool(_named(session, name))


def find_server(session: Client, name: str, nova_uuid: str) -> VmRecord | None:
    """Return our host's VM with this name that is Nova's instance, None without one.

    A name alone proves nothing: another deployment, or an operator, may use it.
    Neither does the UUID: after an evacuation another host of the pool may have a
    VM of that server, and ours is the one that is to go.

    :raises NotUnique: several VMs say that they are the instance
    """
    own = [
        one
        for one in _named(session, name)
        if one.nova_uuid == nova_uuid and one.home in (session.host_ref, None)
    ]
    return only("VM", name, own)


def ours(session: Client) -> list[VmRecord]:
    """Return Nova's servers of our host; see :attr:`VmRecord.home`."""
    return [
        one
        for one in session.records[VmRecord].owned_by(session.host_ref)
        if one.is_server
    ]


def create(session: Client, record: Mapping[str, Any]) -> str:
    """Create a halted VM from its complete record; return its reference."""
    return str(session.call("VM.create", record))


def destroy(session: Client, ref: str) -> None:
    """Destroy a halted VM, its VBDs and VIFs, not its disks; gone counts as done.

    :raises VmBadPowerState: it is not halted
    """
    with contextlib.suppress(errors.HandleInvalid):
        session.call("VM.destroy", ref)


def remove_from_xenstore_data(session: Client, ref: str, key: str) -> None:
    """Take a key from the record; a guest that runs sees it until its next boot."""
    session.call("VM.remove_from_xenstore_data", ref, key)


def start_on(session: Client, ref: str, host_ref: str, paused: bool = False) -> None:
    """Start a halted VM on that host. Blocks until its domain runs.

    :raises VmBadPowerState: it is not halted
    :raises HostNotEnoughFreeMemory: it does not fit
    """
    session.task("Async.VM.start_on", ref, host_ref, paused, False)


def lock_start(session: Client, record: VmRecord, why: str) -> None:
    """Have the host refuse to start the VM, whoever asks; no request where it does.

    One key after the other: somebody else may block another operation meanwhile.

    :param why: what the host says then
    """
    for verb in STARTS:
        if verb in record.blocked_operations:
            continue
        try:
            session.call("VM.add_to_blocked_operations", record.ref, verb, why)
        except errors.XapiFailure as exc:
            if exc.code != "MAP_DUPLICATE_KEY":  # somebody blocked it meanwhile
                raise


def unlock_start(session: Client, record: VmRecord) -> None:
    """Let the VM be started again; no request where nothing is in the way."""
    for verb in STARTS:
        if verb in record.blocked_operations:
            session.call("VM.remove_from_blocked_operations", record.ref, verb)


def pause(session: Client, ref: str) -> None:
    """Stop the virtual CPUs of a running VM."""
    session.call("VM.pause", ref)


def unpause(session: Client, ref: str) -> None:
    """Let the virtual CPUs of a paused VM go on."""
    session.call("VM.unpause", ref)


def resume_on(session: Client, ref: str, host_ref: str) -> None:
    """Let a suspended VM go on, on that host, from its saved memory.

    :raises VmBadPowerState: it is not suspended
    """
    session.task("Async.VM.resume_on", ref, host_ref, False, False)


def clean_shutdown(session: Client, ref: str, timeout: float | None = None) -> None:
    """Ask the guest to shut down and wait until it has.

    :param timeout: seconds; None leaves it to the host (20 minutes)
    :raises VmLacksFeature: the guest has nothing that would listen
    :raises VmShutdownTimeout: it did not, by the host's clock
    :raises TaskTimeout: it did not, by ours
    """
    session.task("Async.VM.clean_shutdown", ref, timeout=timeout)


def hard_shutdown(session: Client, ref: str) -> None:
    """Take the power from a running, paused or suspended VM.

    :raises VmBadPowerState: it is halted
    """
    session.task("Async.VM.hard_shutdown", ref)


def clean_reboot(session: Client, ref: str, timeout: float | None = None) -> None:
    """Ask the guest to reboot and wait until its new domain runs.

    :param timeout: seconds; None leaves it to the host (20 minutes)
    :raises VmLacksFeature: the guest has nothing that would listen
    :raises TaskTimeout: not in time
    """
    session.task("Async.VM.clean_reboot", ref, timeout=timeout)


def hard_reboot(session: Client, ref: str) -> None:
    """Reset a running or paused VM."""
    session.task("Async.VM.hard_reboot", ref)
