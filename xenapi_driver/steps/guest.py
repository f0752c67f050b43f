# SPDX-License-Identifier: Apache-2.0
"""What a server's guest needs of its virtual machine, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Guest:
    """The guest's virtual hardware, and what it is told.

    :ivar os_type: ``linux``, ``windows`` or None
    :ivar domain_type: hvm, pv or pvh, as XAPI names them
    :ivar firmware: ``bios`` or ``uefi``
    :ivar secure_boot: XAPI's ``platform:secureboot``: true, auto or false
    :ivar vtpm: whether it has a TPM of its own
    :ivar vcpu_weight: scheduler weight, or None for the host's default
    :ivar vcpu_cap: percent of one processor for all of its own; 0 is no limit
    :ivar cpus: the host's processors that it may use; () is all
    :ivar cores_per_socket: None leaves it to the host
    :ivar device_id: of the Xen platform device, for Windows drivers
    :ivar vga: kind of the video card, None for the firmware's usual one
    :ivar video_mb: memory of the video card in MiB, likewise
    :ivar pci: addresses of the host's devices that it gets
    :ivar vgpu: model of the virtual graphics device that it gets, or None
    :ivar xenstore_data: XAPI's field of that name: what agents in the guest read
    """

    os_type: str | None = None
    domain_type: str = "hvm"
    firmware: str = "bios"
    secure_boot: str = "false"
    vtpm: bool = False
    vcpu_weight: int | None = None
    vcpu_cap: int = 0
    cpus: tuple[int, ...] = ()
    cores_per_socket: int | None = None
    device_id: int | None = None
    vga: str | None = None
    video_mb: int | None = None
    pci: tuple[str, ...] = ()
    vgpu: str | None = None
    xenstore_data: Mapping[str, str] = field(default_factory=dict)

    @property
    def windows(self) -> bool:
        """Whether it runs Windows."""
        return self.os_type == "windows"

    @property
    def uefi(self) -> bool:
        """Whether its firmware is UEFI."""
        return self.firmware == "uefi"
