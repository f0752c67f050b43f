# SPDX-License-Identifier: Apache-2.0
"""From Nova's objects to the values that the steps work with."""

from __future__ import annotations

from typing import Any

from nova.virt import driver

from xenapi_driver import exceptions
from xenapi_driver.images import kinds
from xenapi_driver.images.kernels import BootImages
from xenapi_driver.steps import further_disks, xenstore_data
from xenapi_driver.steps.build import (
    Address,
    FurtherDisk,
    Network,
    Port,
    Server,
)
from xenapi_driver.steps.guest import Guest

# What an AMI's kernel is told, as it was since the first release.
KERNEL_ARGUMENTS = "root=/dev/xvda1"


def server_of(
    instance: Any,
    image_meta: Any,
    network_info: Any,
    guest: Guest,
    disks: tuple[FurtherDisk, ...] = (),
) -> Server:
    """Return what the steps need to know of Nova's instance.

    :param image_meta: Nova's ImageMeta
    :param network_info: read when the ports are first looked at
    :param disks: of :func:`disks_of`
    :raises exceptions.ImageUnusable: the driver boots no such image
    """
    flavor = instance.flavor
    return Server(
        uuid=instance.uuid,
        name=instance.name,
        image_id=instance.image_ref,
        image_kind=kinds.kind(
            instance.image_ref,
            _formats(image_meta, "disk_format"),
            _formats(image_meta, "container_format"),
        ),
        memory_mb=flavor.memory_mb,
        vcpus=flavor.vcpus,
        root_gb=flavor.root_gb,
        guest=guest,
        network=Network(lambda: [_port(vif) for vif in network_info or ()]),
        boot=_boot(instance, image_meta),
        ipxe=bool(image_meta.properties.get("hw_ipxe_boot")),
        disks=disks,
    )


def disks_of(
    instance: Any,
    image_meta: Any,
    block_device_info: dict | None,
    default_format: str | None,
) -> tuple[FurtherDisk, ...]:
    """Return the disks that the server has beside its image's, volumes left out.

    What block devices are asked for counts, and the flavor's where none are. The
    root disk is among them where the image is a CD.

    :param default_format: ``[DEFAULT] default_ephemeral_format``
    :raises exceptions.DriverError: a file system that cannot be made
    """
    flavor = instance.flavor
    asked = driver.block_device_info_get_ephemerals(block_device_info)
    ephemerals = [(one["size"], one["guest_format"]) for one in asked]
    swap = driver.block_device_info_get_swap(block_device_info)
    is_cd = _formats(image_meta, "disk_format") == kinds.ISO
    return further_disks.wished(
        instance.name,
        swap["swap_size"] or flavor.swap,
        ephemerals or [(flavor.ephemeral_gb, None)],
        default_format,
        instance.os_type == "windows",
        flavor.root_gb if is_cd else 0,
    )


def _boot(instance: Any, image_meta: Any) -> BootImages | None:
    kernel, ramdisk = _of(instance, "kernel_id"), _of(instance, "ramdisk_id")
    if kernel:
        words = image_meta.properties.get("os_command_line")
        return BootImages(kernel, ramdisk or None, words or KERNEL_ARGUMENTS)
    if ramdisk:
        raise exceptions.ImageUnusable(
            instance.image_ref,
            f"Image {instance.image_ref} names a ramdisk_id and no kernel_id: name "
            "both, or none where the disk has its own.",
        )
    return None


def _of(instance: Any, name: str) -> Any:
    return getattr(instance, name) if instance.obj_attr_is_set(name) else None


def _formats(image_meta: Any, name: str) -> str | None:
    return getattr(image_meta, name) if image_meta.obj_attr_is_set(name) else None


def _port(vif: dict) -> Port:
    if vif["type"] in ("unbound", "binding_failed"):
        raise exceptions.NetworkingFailed(
            f"Neutron could not bind port {vif['id']} (vif_type {vif['type']}): look "
            "at its Open vSwitch agent for this host."
        )
    mtu = vif["network"].get_meta("mtu") or 1500
    return Port(
        port_id=vif["id"],
        mac=vif["address"],
        mtu=int(mtu),
        xenstore_data=xenstore_data.networking([vif]),
        network=vif["network"]["label"] or "",
        ipv4=_ipv4(vif["network"]["subnets"]),
    )


def _ipv4(subnets: list[Any]) -> Address | None:
    for subnet in subnets:
        if subnet["version"] == 4 and subnet["ips"]:
            return Address(
                address=subnet["ips"][0]["address"],
                netmask=str(subnet.as_netaddr().netmask),
                gateway=(subnet["gateway"] or {}).get("address"),
                dns=next((one["address"] for one in subnet["dns"]), None),
            )
    return None
