# SPDX-License-Identifier: Apache-2.0
"""A compute node of the cloud: a nova-compute and the XAPI host that it manages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from demo.layout import HOST

Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Node:
    """One compute node. The demo has one; tests run several in one cloud.

    :ivar name: what Nova and Neutron call it
    :ivar number: its place among the nodes, 0 for the demo's own; also what is
        added to the port of its XAPI host
    :ivar sr_type: of the SR that its servers' disks are on; "": the local one that
        every fresh host has
    :ivar block_devices: show disks that are plugged into nova-compute's VM as real
        block devices; needs root
    :ivar options: nova-compute's options that differ from the demo's, by section
    """

    name: str = HOST
    number: int = 0
    sr_type: str = ""
    block_devices: bool = False
    options: Options = field(default_factory=dict)

    def process(self, kind: str) -> str:
        """The name of one of this node's processes, such as ``nova-compute``."""
        return f"{kind}-{self.name}" if self.number else kind
