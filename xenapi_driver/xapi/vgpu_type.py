# SPDX-License-Identifier: Apache-2.0
"""XAPI's VGPU_type: what a graphics card can be split into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True)
class VgpuTypeRecord:
    """What we read of one ``VGPU_type.get_record``.

    :ivar model_name: as ``[devices] enabled_mdev_types`` has it; not unique
    """

    XAPI_CLASS: ClassVar[str] = "VGPU_type"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    model_name: str

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> VgpuTypeRecord:
        return cls(ref=ref, uuid=rec["uuid"], model_name=rec["model_name"])
