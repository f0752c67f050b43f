# SPDX-License-Identifier: Apache-2.0
"""What the steps of a build are told, and what they hand on to each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xenapi_driver.images.kernels import BootImages
from xenapi_driver.steps.guest import Guest

MIB = 2**20
GIB = 2**30

# XAPI's names of the flavor's disks in VDI.other_config: what clean-up tools read.
INSTANCE_KEY = "nova_instance_uuid"
DISK_TYPE_KEY = "nova_disk_type"
# In VBD.other_config of a disk that is a volume: never destroyed with its VM, and no
# image is made of it.
VOLUME_KEY = "osvol"
# In VM.other_config: how everybody tells whose VM it is.
VM_INSTANCE_KEY = "nova_uuid"

# Positions of disks in a VM (VBD.userdevice), which images and guests rely on. An
# HVM guest sees the first four before its PV drivers are loaded.
ROOT_DEVICE = "0"
CD_DEVICE = "1"
SWAP_DEVICE = "2"
CONFIG_DRIVE_DEVICE = "3"
FIRST_EPHEMERAL_DEVICE = 4


class Network:
    """A server's ports, for which Neutron is waited when they are first looked at.

    Nova asks Neutron for them while the build has already begun.
    """

    def __init__(self, read: Callable[[], Iterable[Port]] = tuple) -> None:
        """:param read: gives the ports; called once"""
        self._read = read

    @functools.cached_property
    def ports(self) -> tuple[Port, ...]:
        """In the order of the server's interfaces."""
        return tuple(self._read())


@dataclass(frozen=True)
class Address:
    """A port's first IPv4 address, and what goes with it, as texts."""

    address: str
    netmask: str
    gateway: str | None = None
    dns: str | None = None


@dataclass(frozen=True)
class Port:
    """A Neutron port that becomes a VIF.

    :ivar mtu: bytes
    :ivar xenstore_data: its addresses, for agents in the guest
    :ivar network: the network's label
    :ivar ipv4: None without one
    """

    port_id: str
    mac: str
    mtu: int
    xenstore_data: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    ipv4: Address | None = None


@dataclass(frozen=True)
class FurtherDisk:
    """A disk beside the root, empty but for a file system.

    :ivar kind: ``swap``, ``ephemeral``, or ``user`` for a blank root disk
    :ivar name: its name label
    :ivar size: bytes
    :ivar device: position, decimal text
    :ivar format: the file system in its one partition, None to leave it empty
    :ivar label: of the file system
    """

    kind: str
    name: str
    size: int
    device: str
    format: str | None
    label: str


@dataclass(frozen=True)
class Server:
    """The server to build, as values.

    :ivar name: Nova's instance name, which is the VM's name label
    :ivar image_kind: one of ``images.kinds``
    :ivar root_gb: the flavor's root disk in GiB; 0 takes the image's size
    :ivar boot: kernel and ramdisk that are no part of its disk, None without
    :ivar ipxe: its CD boots iPXE and is to be told the server's address
    """

    uuid: str
    name: str
    image_id: str
    image_kind: str
    memory_mb: int
    vcpus: int
    root_gb: int
    guest: Guest = Guest()
    network: Network = field(default_factory=Network)
    boot: BootImages | None = None
    ipxe: bool = False
    disks: tuple[FurtherDisk, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """The flavor's memory in bytes."""
        return self.memory_mb * MIB

    @property
    def root_bytes(self) -> int | None:
        """The flavor's root disk in bytes, None where the image decides."""
        return self.root_gb * GIB or None


@dataclass(frozen=True)
class Attached:
    """A disk, or an empty drive, as the VM is to have it.

    :ivar vdi: reference, None for an empty drive
    :ivar device: position, decimal text
    :ivar mode: RW or RO
    :ivar type: Disk or CD
    """

    vdi: str | None
    device: str
    bootable: bool = False
    mode: str = "RW"
    type: str = "Disk"
    other_config: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Built:
    """What exists on the host so far; the steps fill it.

    :ivar disks: by their position; whose step put one in takes it out in its undo
    :ivar kernel: path in dom0 of what boots; "" where the disk has it
    :ivar ramdisk: likewise
    """

    disks: dict[str, Attached] = field(default_factory=dict)
    kernel: str = ""
    ramdisk: str = ""
    vm: str | None = None
    vifs: list[str] = field(default_factory=list)
