# SPDX-License-Identifier: Apache-2.0
"""Names of a server's disks: letters that say where XAPI has them.

====== ======================= =====================
Letter Position (userdevice)   Disk
====== ======================= =====================
a      0                       root
b      1                       CD, of a server that boots from one
c      2                       swap
d      3                       config drive
e ...  4 ...                   ephemeral disks
others                         volumes
====== ======================= =====================
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import nova.conf
from nova import block_device
from nova import exception as nova_exception
from nova.virt import configdrive

from xenapi_driver.steps import further_disks
from xenapi_driver.steps.build import (
    CD_DEVICE,
    CONFIG_DRIVE_DEVICE,
    FIRST_EPHEMERAL_DEVICE,
    SWAP_DEVICE,
)

PREFIX = "/dev/xvd"
ROOT = f"{PREFIX}a"

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# What users call disks, whatever bus they think of; a bare number is a position.
_NAME = re.compile(r"(?:/dev/)?(?:(?:xvd|vd|sd|hd)([a-z]{1,2})|(\d{1,3}))\Z")
_LAST = 254  # of XAPI's positions


def name(position: int) -> str:
    """Return the device name of a position: 0 is /dev/xvda, 26 /dev/xvdaa."""
    letters = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        letters = _LETTERS[rest] + letters
    return PREFIX + letters


def position(device_name: str) -> int:
    """Return the position of a device name, whatever its prefix.

    :raises nova.exception.InvalidDevicePath: it is none
    """
    found = _NAME.match(device_name)
    if found is None:
        raise nova_exception.InvalidDevicePath(path=device_name)
    letters, number = found.groups()
    at = int(number) if number else 0
    for letter in letters or "":
        at = at * 26 + _LETTERS.index(letter) + 1
    at -= bool(letters)
    if at > _LAST:
        raise nova_exception.InvalidDevicePath(path=device_name)
    return at


def reserved(instance: Any, bdms: Iterable[Any]) -> set[int]:
    """Return the positions that are the server's own disks' or would be."""
    bdms = list(bdms)
    flavor = instance.flavor
    found = {0}
    image = instance.image_meta
    if image.obj_attr_is_set("disk_format") and image.disk_format == "iso":
        found.add(int(CD_DEVICE))
    if flavor.swap or any(block_device.new_format_is_swap(one) for one in bdms):
        found.add(int(SWAP_DEVICE))
    if configdrive.required_by(instance):
        found.add(int(CONFIG_DRIVE_DEVICE))
    sizes = [one.volume_size or 0 for one in bdms if _is_ephemeral(one)]
    pieces = further_disks.count(sizes or [flavor.ephemeral_gb])
    return found | set(range(FIRST_EPHEMERAL_DEVICE, FIRST_EPHEMERAL_DEVICE + pieces))


def _is_ephemeral(bdm: Any) -> bool:
    return block_device.new_format_is_ephemeral(bdm)


def give_names(
    instance: Any, root: str, lists: Iterable[Iterable[Any]], most: int
) -> None:
    """Name those of a new server's block devices that have no name, and save them.

    :param root: name of the root disk
    :param lists: of Nova's BlockDeviceMapping: images, ephemerals, swap, volumes
    :param most: disks that a server may have, -1 for as many as there are positions
    :raises nova.exception.TooManyDiskDevices: there are more
    """
    bdms = [one for some in lists for one in some]
    next_ephemeral = FIRST_EPHEMERAL_DEVICE
    for bdm in bdms:
        chosen = bdm.device_name
        if bdm.boot_index == 0:
            chosen = chosen or root
        elif block_device.new_format_is_swap(bdm):
            chosen = name(int(SWAP_DEVICE))
        elif _is_ephemeral(bdm):
            chosen = name(next_ephemeral)
            next_ephemeral += further_disks.count([bdm.volume_size or 0])
        elif not chosen:
            chosen = next_free(instance, bdms, most)
        if chosen != bdm.device_name:
            bdm.device_name = chosen
            bdm.save()


def next_free(instance: Any, bdms: Iterable[Any], most: int, wish: str = "") -> str:
    """Return the name of a disk that is added.

    :param wish: a name that was asked for, "" for any
    :raises nova.exception.DevicePathInUse: that is taken
    :raises nova.exception.InvalidDevicePath: that is none
    :raises nova.exception.TooManyDiskDevices: nothing is free
    """
    bdms = list(bdms)
    names = [one.device_name for one in bdms if one.device_name]
    taken = reserved(instance, bdms) | {position(one) for one in names}
    if len(names) >= most >= 0:
        raise nova_exception.TooManyDiskDevices(maximum=most)
    if wish:
        if position(wish) in taken:
            raise nova_exception.DevicePathInUse(path=wish)
        return name(position(wish))
    for at in range(_LAST + 1):
        if at not in taken:
            return name(at)
    raise nova_exception.TooManyDiskDevices(maximum=_LAST + 1)


class DiskNames:
    """The driver's methods by which Nova asks for names."""

    def default_root_device_name(
        self, instance: Any, image_meta: Any, root_bdm: Any
    ) -> str:
        return ROOT

    def default_device_names_for_instance(
        self, instance: Any, root_device_name: str, *block_device_lists: Any
    ) -> None:
        most = nova.conf.CONF.compute.max_disk_devices_to_attach
        give_names(instance, root_device_name, block_device_lists, most)

    def get_device_name_for_instance(
        self, instance: Any, bdms: Any, block_device_obj: Any
    ) -> str:
        most = nova.conf.CONF.compute.max_disk_devices_to_attach
        wish = block_device_obj.get("device_name") or ""
        return next_free(instance, bdms, most, wish)
