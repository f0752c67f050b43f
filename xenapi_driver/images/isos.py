# SPDX-License-Identifier: Apache-2.0
"""The library into which boot CDs go, and the settings of those that boot iPXE."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import plain
from xenapi_driver.images.source import ImageSource
from xenapi_driver.xapi import errors, pbd, plugins, sr, vdi
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.session import Session

LOG = logging.getLogger(__name__)

# What an operator puts on the library ("xenapi-driver-behaviour", 3.9).
LIBRARY_KEY, LIBRARY_VALUE = "i18n-key", "local-storage-iso"

_MOUNTS = "/run/sr-mount"
_MOUNT = re.compile(r"(?:/var)?(/run/sr-mount/[^/]+)(?:/iso)?/?")


def library(session: Session) -> sr.SrRecord:
    """Return the SR that takes boot CDs; the local one where there are several.

    :raises exceptions.UnfitHost: none is plugged on our host
    """
    marked = [
        one
        for one in sr.all(session)
        if one.content_type == "iso"
        and one.other_config.get(LIBRARY_KEY) == LIBRARY_VALUE
    ]
    for one in sorted(marked, key=lambda one: (one.shared, one.uuid)):
        if pbd.of_host_sr(session, session.host_ref, one.ref) is not None:
            return one
    place = f"Host {session.host.hostname} has no library for ISO images"
    if marked:
        raise exceptions.UnfitHost(
            f"{place}: SR {marked[0].uuid} ({marked[0].name_label}), which is marked "
            "as one, is not plugged there",
            "plug it with xe pbd-plug",
        )
    raise exceptions.UnfitHost(
        f"{place}: no SR with content_type iso has other_config:{LIBRARY_KEY} = "
        f"{LIBRARY_VALUE}",
        "make an ISO SR that dom0 can write to and mark it with xe sr-param-set "
        f"other-config:{LIBRARY_KEY}={LIBRARY_VALUE}",
    )


def write(
    home: Home,
    source: ImageSource,
    name: str,
    keys: dict[str, str],
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Put the image into the library, complete with name and keys.

    On a failure there is no CD.

    :raises exceptions.UnfitHost: the host has no library
    :raises exceptions.ImageError: one of its kinds
    :raises errors.XapiError: the host refused
    """
    where = library(home.session)
    return plain.write(home, source, where.ref, name, keys, progress)


@dataclass(frozen=True)
class Ipxe:
    """What an iPXE boot CD is told; what is None is asked for at the console.

    :ivar menu_url: where it goes on to
    :ivar maker: program in dom0 that makes a CD
    """

    menu_url: str | None = None
    address: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    dns: str | None = None
    maker: str | None = None

    def missing(self) -> list[str]:
        """Return what somebody has to enter at the server's console."""
        found = [] if self.menu_url else ["the URL of the boot menu"]
        if not (self.address and self.netmask):
            found.append("the network address")
        return found


def inject(home: Home, cd: vdi.VdiRecord, image_id: str, settings: Ipxe) -> None:
    """Have dom0 write the settings into an iPXE CD, as far as it can.

    Where it cannot, for want of a program or of a place that it may write to, a
    warning says so: the server boots and asks at its console.

    :raises exceptions.ImageUnusable: the image is no iPXE CD
    :raises errors.XapiError: the plugin failed
    """
    path = _mount(home.session, cd.sr)
    if path is None:
        _warn(cd, f"its library is no SR below {_MOUNTS}, and no folder iso of one")
        return
    request = {
        "sr_path": path,
        "vdi_uuid": cd.uuid,
        "boot_menu_url": settings.menu_url,
        "ip_address": settings.address,
        "netmask": settings.netmask,
        "gateway": settings.gateway,
        "dns": settings.dns,
        "mkisofs_cmd": settings.maker,
    }
    try:
        plugins.call(home.session, "ipxe", "inject", request)
    except errors.PluginError as exc:
        if exc.code == "COMMAND_MISSING":
            _warn(cd, f"dom0 does not have {' '.join(exc.params)}")
            return
        if exc.code in ("IMAGE_CORRUPT", "IMAGE_TOO_LARGE"):
            raise exceptions.ImageUnusable(
                image_id,
                f"Image {image_id} has hw_ipxe_boot and cannot be given its settings: "
                f"{' '.join(exc.params)}",
            ) from exc
        raise


def _warn(cd: vdi.VdiRecord, reason: str) -> None:
    LOG.warning(
        "iPXE settings were not written into CD %(cd)s, as %(reason)s: they are to be "
        "entered at the server's console.",
        {"cd": cd.uuid, "reason": reason},
    )


def _mount(session: Session, sr_ref: str) -> str | None:
    """Return the mount of the SR in which dom0 has a library, None where it is none."""
    connection = pbd.of_host_sr(session, session.host_ref, sr_ref)
    if connection is None:
        return None
    config = connection.device_config
    if config.get("legacy_mode"):
        folder = config.get("location", "")
    else:
        uuid = sr.get(session, sr_ref).uuid
        folder = f"{_MOUNTS}/{uuid}{config.get('iso_path', '')}"
    match = _MOUNT.fullmatch(folder)
    return match and match.group(1)
