# SPDX-License-Identifier: Apache-2.0
"""What the steps of a build are told, and what they hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20
GIB = 2**30

# XAPI's names of the flavor's disks in VDI.other_config: what clean-up tools read.
INSTANCE_KEY = "nova_instance_uuid"
DISK_TYPE_KEY = "nova_disk_type"
# In VM.other_config: how everybody tells whose VM it is.
VM_INSTANCE_KEY = "nova_uuid"


@dataclass(frozen=True)
class Port:
    """A Neutron port that becomes a VIF.

    :ivar mtu: bytes
    """

    port_id: str
    mac: str
    mtu: int


@dataclass(frozen=True)
class Server:
    """The server to build, as values.

    :ivar name: Nova's instance name, which is the VM's name label
    :ivar root_gb: the flavor's root disk in GiB; 0 takes the image's size
    :ivar vcpu_weight: scheduler weight, or None for the host's default
    :ivar os_type: ``linux``, ``windows`` or None
    :ivar firmware: ``bios`` or ``uefi``
    """

    uuid: str
    name: str
    image_id: str
    memory_mb: int
    vcpus: int
    root_gb: int
    vcpu_weight: int | None = None
    os_type: str | None = None
    firmware: str = "bios"
    ports: tuple[Port, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """The flavor's memory in bytes."""
        return self.memory_mb * MIB

    @property
    def root_bytes(self) -> int | None:
        """The flavor's root disk in bytes, None where the image decides."""
        return self.root_gb * GIB or None


@dataclass
class Built:
    """What exists on the host so far; the steps fill it."""

    root_vdi: str | None = None
    vm: str | None = None
    vifs: list[str] = field(default_factory=list)
