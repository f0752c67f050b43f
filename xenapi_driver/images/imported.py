# SPDX-License-Identifier: Apache-2.0
"""Disks written through XAPI's import handler: any SR, no plugin, no plugging."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import BinaryIO

from xenapi_driver.formats import vhd
from xenapi_driver.images import entries
from xenapi_driver.images.new_disk import SECTOR, being_filled
from xenapi_driver.images.raw import RawContent
from xenapi_driver.xapi import streams, vdi
from xenapi_driver.xapi.home import Home


def write_raw(
    home: Home,
    content: RawContent,
    sr_ref: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Make a disk with this content; on a failure there is none.

    :param sr_ref: of another SR than the servers' disks'
    :param progress: called with 0.0 to 1.0
    :raises exceptions.ImageError: the image is damaged
    :raises errors.XapiError: the host refused
    """

    def tell(share: float, _size: int) -> None:
        if progress is not None:
            progress(share)

    name = entries.label(content.image_id)
    with being_filled(home, content.size, sr_ref, name) as ref:
        streams.import_disk(home.session, ref, _stream(content), progress=tell)
        return vdi.get(home.session, ref)


def _stream(content: RawContent) -> streams.Content:
    """Return what is sent: of a file with holes no more than what is in it."""
    whole = -(-content.size // SECTOR) * SECTOR
    if content.file is None or not 0 < whole <= vhd.MAX_VIRTUAL_SIZE:
        return streams.Content(content.again or content.pieces, content.size)
    again = functools.partial(_sparse, content.file, whole)
    return streams.Content(again, vhd.sparse(content.file, whole)[0], "vhd")


def _sparse(file: BinaryIO, size: int) -> Iterator[bytes]:
    return vhd.sparse(file, size)[1]
