# SPDX-License-Identifier: Apache-2.0
"""XAPI's PGPU: a graphics card of a host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True)
class PgpuRecord:
    """What we read of one ``PGPU.get_record``: a snapshot, not a live object.

    :ivar enabled_types: references of the types that guests may have of it
    :ivar capacities: by type, how many guests it can carry when it carries no other
    """

    XAPI_CLASS: ClassVar[str] = "PGPU"
    OWNER: ClassVar[str] = "host"

    ref: str
    uuid: str
    host: str
    gpu_group: str
    enabled_types: tuple[str, ...]
    capacities: Mapping[str, int]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> PgpuRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        most = rec["supported_VGPU_max_capacities"]
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            host=rec["host"],
            gpu_group=rec["GPU_group"],
            enabled_types=tuple(rec["enabled_VGPU_types"]),
            capacities={kind: int(number) for kind, number in most.items()},
        )
