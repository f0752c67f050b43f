# SPDX-License-Identifier: Apache-2.0
"""XAPI's host_metrics: what of a host changes by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True)
class HostMetricsRecord:
    """What we read of one ``host_metrics.get_record``.

    :ivar memory_total: bytes
    :ivar live: whether the pool's coordinator hears of the host
    """

    XAPI_CLASS: ClassVar[str] = "host_metrics"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    memory_total: int
    live: bool

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> HostMetricsRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            memory_total=int(rec["memory_total"]),
            live=rec["live"],
        )
