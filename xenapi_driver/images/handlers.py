# SPDX-License-Identifier: Apache-2.0
"""The image handlers, of which ``image_handler`` chooses one.

=====================  ====================================================
``direct_vhd``         a dom0 plugin moves VHD files; file-based SRs
``vdi_local_dev``      raw images, through a disk plugged into the machine
                       of nova-compute; any SR
``vdi_remote_stream``  XAPI's import and export handlers; any SR
=====================  ====================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from xenapi_driver.images.direct_vhd import DirectVhd
from xenapi_driver.images.local_dev import LocalDev
from xenapi_driver.images.raw import RawContent
from xenapi_driver.images.remote_stream import RemoteStream
from xenapi_driver.images.rules import TransferRules
from xenapi_driver.images.source import ImageSource, ImageTarget, Stored
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.plugged import Place
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.vdi import VdiRecord

Progress = Callable[[float], None]


class Handler(Protocol):
    """Moves images between Glance and the SR.

    A disk that comes in has no keys yet, and no name or that of a cached image: the
    caller gives it both. On a failure the SR is as it was.

    :ivar longest_chain: how many VHDs it can store, where it reads their files itself;
        None where it reads a disk as the host shows it
    """

    name: str
    longest_chain: int | None
    rules: TransferRules

    @staticmethod
    def check_sr(record: SrRecord, path: str | None) -> None:
        """Refuse an SR that it cannot serve.

        :param path: the SR's directory in dom0, None where it has none
        :raises exceptions.UnfitHost: names the handler that can
        """

    def fetch_vhd(
        self,
        source: ImageSource,
        max_bytes: int | None,
        progress: Progress | None = None,
    ) -> VdiRecord:
        """Bring a VHD image in, a chain of several VHDs as well.

        :param max_bytes: of the flavor's disk, None for no limit
        :raises exceptions.ImageError: one of its kinds
        """

    def write_raw(
        self,
        content: RawContent,
        sr_ref: str | None = None,
        progress: Progress | None = None,
    ) -> VdiRecord:
        """Make a disk that has this content.

        :param sr_ref: of another SR than the servers' disks'
        """

    def store(
        self,
        target: ImageTarget,
        leaf: VdiRecord,
        chain: list[str],
        progress: Progress | None = None,
    ) -> Stored:
        """Give a disk, to which nobody writes, to an image that waits for it.

        :param chain: UUIDs of its VHDs, leaf first, down to the base
        :raises exceptions.ImageError: one of its kinds; the image has no data then
        """


_HANDLERS = (DirectVhd, LocalDev, RemoteStream)


def choose(
    name: str, home: Home, rules: TransferRules, place: Place | None
) -> Handler:
    """Return the handler of that name.

    :param place: where disks are plugged, None where they cannot be
    :raises exceptions.UnfitConfiguration: it plugs disks, and they cannot be
    """
    if name == LocalDev.name:
        return LocalDev(home, rules, place)
    if name == RemoteStream.name:
        return RemoteStream(home, rules)
    return DirectVhd(home, rules)


def check_sr(name: str, record: SrRecord, path: str | None) -> None:
    """Refuse an SR that the handler of that name cannot serve.

    :raises exceptions.UnfitHost: names the handler that can
    """
    for handler in _HANDLERS:
        if handler.name == name:
            handler.check_sr(record, path)
