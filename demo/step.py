# SPDX-License-Identifier: Apache-2.0
"""What a step of the main job is, and what the steps hand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import openstack

from demo.cloud import Cloud


@dataclass
class Job:
    """What one step hands to the next."""

    cloud: Cloud
    api: openstack.connection.Connection
    before: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    image_id: str = ""
    flavor_id: str = ""
    network_id: str = ""
    servers: dict[str, str] = field(default_factory=dict)
    instance_names: dict[str, str] = field(default_factory=dict)
    domids: dict[str, str] = field(default_factory=dict)

    def log(self, process: str = "nova-compute") -> Path:
        return self.cloud.layout.log_of(process)


class Step(NamedTuple):
    """One line of the table.

    ``act`` is timed and its XenAPI requests are counted; ``look`` proves it,
    and returns the words that tell what it saw. ``bar`` limits the requests.
    """

    name: str
    act: Callable[[Job], None]
    look: Callable[[Job], str]
    bar: int | None = None
