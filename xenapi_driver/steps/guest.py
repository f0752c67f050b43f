# SPDX-License-Identifier: Apache-2.0
"""What a server's guest needs of its virtual machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guest:
    """The guest's wishes, as values.

    :ivar os_type: ``linux``, ``windows`` or None
    :ivar firmware: ``bios`` or ``uefi``
    :ivar vcpu_weight: scheduler weight, or None for the host's default
    """

    os_type: str | None = None
    firmware: str = "bios"
    vcpu_weight: int | None = None

    @property
    def windows(self) -> bool:
        """Whether it runs Windows."""
        return self.os_type == "windows"
