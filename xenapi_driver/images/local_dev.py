# SPDX-License-Identifier: Apache-2.0
"""The ``vdi_local_dev`` handler: a disk plugged into the machine of nova-compute.

It works on any SR. Its images are raw ones, stored as the only file of a gzipped tar;
VHD images it cannot read.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from xenapi_driver import exceptions
from xenapi_driver.formats import tarball
from xenapi_driver.images import entries, tgz
from xenapi_driver.images.new_disk import being_filled
from xenapi_driver.images.raw import RawContent
from xenapi_driver.images.rules import TransferRules
from xenapi_driver.images.source import ImageSource, ImageTarget, Stored
from xenapi_driver.xapi import sr, vdi
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.plugged import Place, plugged

Progress = Callable[[float], None]

# Blocks of zeros are left out in this size: a new disk reads as zeros already.
_GRAIN = 64 * 2**10


class LocalDev:
    """Moves raw images through a block device of this machine."""

    name = "vdi_local_dev"
    longest_chain = None

    def __init__(self, home: Home, rules: TransferRules, place: Place | None) -> None:
        """:param place: where disks are plugged, None where they cannot be

        :raises exceptions.UnfitConfiguration: they cannot be
        """
        if place is None:
            raise exceptions.UnfitConfiguration(
                f"[xenserver] image_handler = {self.name} plugs disks into the machine "
                "of nova-compute, which is no VM of this pool",
                "set image_handler to vdi_remote_stream, which plugs none",
            )
        self.rules = rules
        self._home = home
        self._place = place

    @staticmethod
    def check_sr(record: sr.SrRecord, path: str | None) -> None:
        """Accept any SR: XAPI plugs the disks."""

    def fetch_vhd(
        self,
        source: ImageSource,
        max_bytes: int | None,
        progress: Progress | None = None,
    ) -> vdi.VdiRecord:
        """Refuse: a VHD is not what a disk holds.

        :raises exceptions.ImageUnusable: always
        """
        raise exceptions.ImageUnusable(
            source.image_id,
            f"Image {source.image_id} is a VHD, which image_handler = {self.name} does "
            "not read: set image_handler to vdi_remote_stream, which reads it on any "
            "SR, or convert the image to raw.",
        )

    def write_raw(
        self,
        content: RawContent,
        sr_ref: str | None = None,
        progress: Progress | None = None,
    ) -> vdi.VdiRecord:
        """Make a disk with this content; on a failure there is none.

        :param sr_ref: of another SR than the servers' disks'
        :param progress: called with 0.0 to 1.0
        :raises exceptions.ImageError: the image is damaged
        :raises errors.XapiError: the host refused
        """
        session, name = self._home.session, entries.label(content.image_id)
        with being_filled(self._home, content.size, sr_ref, name) as ref:
            # Before it is plugged, which would have to be heard of as well.
            record = vdi.get(session, ref)
            with (
                plugged(session, self._place, ref) as device,
                _opened(device, "r+b") as disk,
            ):
                _fill(disk, content, progress)
        return record

    def store(
        self,
        target: ImageTarget,
        leaf: vdi.VdiRecord,
        chain: list[str],
        progress: Progress | None = None,
    ) -> Stored:
        """Give a disk, to which nobody writes, to an image that waits for it.

        It becomes raw in a gzipped tar (``container_format`` tgz).

        :raises exceptions.ImageError: one of its kinds; the image has no data then
        """
        size = leaf.virtual_size
        with (
            plugged(self._home.session, self._place, leaf.ref, mode="RO") as device,
            _opened(device, "rb") as disk,
        ):
            pieces = _read(disk, size, progress)
            level = self.rules.compression_level
            archive = tarball.packed(tgz.MEMBER, size, pieces, level)
            return target.give(archive, "raw", "tgz")


def _opened(device: pathlib.Path, mode: str) -> BinaryIO:
    try:
        return open(device, mode, buffering=0)
    except PermissionError as exc:
        raise exceptions.UnfitHost(
            f"nova-compute may not open {device}, a disk that was plugged into its VM",
            "add its user to the group of block devices there, usually disk",
        ) from exc


def _fill(disk: BinaryIO, content: RawContent, progress: Progress | None) -> None:
    """Write all but zeros, and see that it has reached the host."""
    at = 0
    for piece in content.pieces:
        for offset, part in _with_data(at, piece):
            disk.seek(offset)
            _write(disk, part)
        at += len(piece)
        if progress is not None:
            progress(min(0.99, at / content.size))
    os.fsync(disk.fileno())


def _with_data(at: int, piece: bytes) -> Iterator[tuple[int, memoryview]]:
    """Give the parts of a piece that are not all zeros, each with its place.

    :param at: the place of the piece
    """
    zeros = bytes(_GRAIN)
    begin = 0
    while begin < len(piece):
        # Up to the next multiple of the grain, so that whole blocks are written.
        end = min(len(piece), begin + _GRAIN - (at + begin) % _GRAIN)
        part = piece[begin:end]
        if part != zeros[: len(part)]:
            yield at + begin, memoryview(part)
        begin = end


def _write(disk: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[disk.write(data) :]


def _read(disk: BinaryIO, size: int, progress: Progress | None) -> Iterator[bytes]:
    at = 0
    while at < size:
        piece = disk.read(min(tgz.PIECE, size - at))
        if not piece:
            return  # the archive sees that it is too short
        at += len(piece)
        yield piece
        if progress is not None:
            progress(min(0.99, at / size))
