# SPDX-License-Identifier: Apache-2.0
"""Images whose bytes go into a disk of their very size: CDs, kernels, ramdisks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenapi_driver import exceptions
from xenapi_driver.images import new_disk
from xenapi_driver.images.source import ImageSource
from xenapi_driver.xapi import streams, vdi
from xenapi_driver.xapi.home import Home


def write(
    home: Home,
    source: ImageSource,
    sr_ref: str | None = None,
    name: str = "",
    keys: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Make a disk that holds the image; on a failure there is none.

    Where the host forgets how its first transfer went, the image is read again.

    :param sr_ref: of another SR than the servers' disks'
    :param keys: the disk's other_config
    :param progress: called with 0.0 to 1.0
    :raises exceptions.ImageError: one of its kinds
    :raises errors.XapiError: the host refused
    """
    if not source.size:
        raise exceptions.ImageUnusable(
            source.image_id, f"Image {source.image_id} is empty."
        )
    content = streams.Content(source.pieces, source.size)

    def tell(share: float, _size: int) -> None:
        if progress is not None:
            progress(share)

    with new_disk.being_filled(home, source.size, sr_ref, name, keys) as ref:
        streams.import_disk(home.session, ref, content, progress=tell)
        return vdi.get(home.session, ref)
