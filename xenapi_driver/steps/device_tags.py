# SPDX-License-Identifier: Apache-2.0
"""Tags that tenants gave to ports and disks, with where the guest finds the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nova import objects

from xenapi_driver import flow
from xenapi_driver.steps.build import Built

# Numbers that Xen gives to block devices (vbd-interface, "Virtual Block Device
# naming"): major << 8 | disk << 4 up to 16 disks, an extended form beyond.
_XVD_MAJOR = 202
_EXTENDED = 1 << 28
# Majors of the two IDE channels, on which the first four disks are as well.
_IDE_MAJORS = (3, 22)
_PREFIXES = ("xvd", "vd", "sd", "hd")


class NoteDeviceTags(flow.Step[Built]):
    """Let Nova's metadata have the tags, before a config drive is made of it."""

    name = "device-tags"

    def __init__(self, note: Callable[[], None]) -> None:
        """:param note: see :func:`note`, with its arguments"""
        self._note = note

    def run(self, state: Built) -> None:
        self._note()


def note(context: Any, instance: Any, network_info: Any) -> None:
    """Put the tags that there are into the instance's ``device_metadata``.

    :param network_info: waited for, as Nova notes the ports' tags with them
    """
    for _vif in network_info or ():
        pass
    vifs = objects.VirtualInterfaceList.get_by_instance_uuid(context, instance.uuid)
    bdms = objects.BlockDeviceMappingList.get_by_instance_uuid(context, instance.uuid)
    windows = instance.os_type == "windows"
    found = [*_nics(vifs), *_disks(bdms, windows)]
    if found:
        instance.device_metadata = objects.InstanceDeviceMetadata(devices=found)
        instance.save()


def _tag(one: Any) -> str | None:
    return one.tag if one.obj_attr_is_set("tag") else None


def _nics(vifs: Iterable[Any]) -> list[Any]:
    # The guest tells its cards apart by their addresses; all are on the PCI bus.
    return [
        objects.NetworkInterfaceMetadata(
            mac=vif.address, bus=objects.PCIDeviceBus(), tags=[_tag(vif)]
        )
        for vif in vifs
        if _tag(vif)
    ]


def _disks(bdms: Iterable[Any], windows: bool) -> list[Any]:
    """Return each tagged disk once for every bus on which the guest may have it."""
    found = []
    for bdm in bdms:
        number = disk_number(bdm.device_name)
        if not _tag(bdm) or number is None:
            continue
        found += [
            objects.DiskMetadata(bus=bus, tags=[_tag(bdm)])
            for bus in _buses(number, windows)
        ]
    return found


def disk_number(device_name: str | None) -> int | None:
    """Return the position of ``/dev/xvda`` and its like, None for another name."""
    name = (device_name or "").removeprefix("/dev/")
    for prefix in _PREFIXES:
        letter = name.removeprefix(prefix)
        if name.startswith(prefix) and len(letter) == 1 and letter.isalpha():
            return ord(letter) - ord("a")
    return None


def _buses(number: int, windows: bool) -> list[Any]:
    if windows:
        # As the end of the device's path in the registry has it.
        addresses = [f"00{number:02}00"]
    elif number < 16:
        addresses = [str(_XVD_MAJOR << 8 | number << 4)]
    else:
        addresses = [str(_EXTENDED | number << 8)]
    if number < 4:
        channel, unit = divmod(number, 2)
        if not windows:
            addresses.append(str(_IDE_MAJORS[channel] << 8 | unit << 6))
        ide = [objects.IDEDeviceBus(address=f"{channel}:{unit}")]
    else:
        ide = []
    return [*(objects.XenDeviceBus(address=one) for one in addresses), *ide]
