# SPDX-License-Identifier: Apache-2.0
"""What an image is, by the two formats that the image service keeps of it."""

from __future__ import annotations

from xenapi_driver import exceptions

VHD = "vhd"
RAW = "raw"
TGZ = "tgz"  # a gzipped tar with one raw disk
QCOW2 = "qcow2"
ISO = "iso"
AMI = "ami"  # a file system without a partition table, with kernels of its own

# Kinds that become a root disk, as against a CD.
DISKS = frozenset({VHD, RAW, TGZ, QCOW2, AMI})


def kind(image_id: str, disk_format: str | None, container_format: str | None) -> str:
    """Return one of the kinds above.

    :raises exceptions.ImageUnusable: the driver boots no such image
    """
    if disk_format == "raw" and container_format == "tgz":
        return TGZ
    if disk_format in (VHD, RAW, QCOW2, ISO, AMI):
        return disk_format
    raise exceptions.ImageUnusable(
        image_id,
        f"Image {image_id} has disk_format {disk_format}: XAPI hosts boot vhd, raw, "
        "qcow2, iso and ami images; convert it, for instance with qemu-img convert.",
    )
