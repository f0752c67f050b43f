# SPDX-License-Identifier: Apache-2.0
"""XAPI's VGPU: a VM's share of a graphics card; it goes with the VM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.pgpu import PgpuRecord
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.vgpu_type import VgpuTypeRecord
from xenapi_driver.xapi.vm import VmRecord

_DEVICE = "0"


@dataclasses.dataclass(frozen=True, slots=True)
class VgpuRecord:
    """What we read of one ``VGPU.get_record``: a snapshot, not a live object."""

    XAPI_CLASS: ClassVar[str] = "VGPU"
    OWNER: ClassVar[str] = "vm"

    ref: str
    uuid: str
    vm: str
    gpu_group: str
    type: str

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VgpuRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            vm=rec["VM"],
            gpu_group=rec["GPU_group"],
            type=rec["type"],
        )


def capacities(
    snapshot: Snapshot, host_ref: str, model: str
) -> dict[tuple[str, str], int]:
    """Return how many VMs the host's cards can carry, by group and type.

    Of several types of that name in a group the first by reference counts, so that
    all who ask choose the same.

    :param model: name of the type
    """
    kinds = {
        one.ref for one in snapshot[VgpuTypeRecord].values() if one.model_name == model
    }
    found: dict[tuple[str, str], int] = {}
    chosen: dict[str, str] = {}
    for card in snapshot[PgpuRecord].owned_by(host_ref):
        for kind in sorted(kinds.intersection(card.enabled_types)):
            if chosen.setdefault(card.gpu_group, kind) == kind:
                key = card.gpu_group, kind
                found[key] = found.get(key, 0) + card.capacities.get(kind, 0)
    return found


def free_group(
    snapshot: Snapshot, host_ref: str, model: str
) -> tuple[str, str] | None:
    """Return group and type that one more VM of the host can have, None without.

    VMs that are halted count: they are to start again.
    """
    for (group, kind), most in sorted(capacities(snapshot, host_ref, model).items()):
        taken = 0
        for one in snapshot[VgpuRecord].values():
            vm = snapshot[VmRecord].get(one.vm)
            if vm is not None and vm.home == host_ref:
                taken += (one.gpu_group, one.type) == (group, kind)
        if taken < most:
            return group, kind
    return None


def models(snapshot: Snapshot, host_ref: str) -> list[str]:
    """Return the names of the types that the host's cards can be split into."""
    kinds = snapshot[VgpuTypeRecord]
    found = {
        kinds[kind].model_name
        for card in snapshot[PgpuRecord].owned_by(host_ref)
        for kind in card.enabled_types
        if kind in kinds
    }
    return sorted(found)


def create(
    session: Client, vm_ref: str, group: str, kind: str, other_config: Mapping[str, str]
) -> str:
    """Give a halted VM a share of a card of the group; return its reference.

    :param kind: reference of the type
    """
    args = vm_ref, group, _DEVICE, other_config, kind
    return str(session.call("VGPU.create", *args))
