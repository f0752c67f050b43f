# SPDX-License-Identifier: Apache-2.0
"""Images whose bytes go into a disk of their very size: CDs, kernels, ramdisks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenapi_driver import exceptions
from xenapi_driver.images.source import ImageSource
from xenapi_driver.xapi import streams, vdi
from xenapi_driver.xapi.client import Client


def write(
    session: Client,
    source: ImageSource,
    sr_ref: str,
    name: str = "",
    keys: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Make a disk that holds the image; on a failure there is none.

    Where the host forgets how its first transfer went, the image is read again.

    :param keys: the disk's other_config
    :param progress: called with 0.0 to 1.0
    :raises exceptions.ImageError: one of its kinds
    :raises errors.XapiError: the host refused
    """
    if not source.size:
        raise exceptions.ImageUnusable(
            source.image_id, f"Image {source.image_id} is empty."
        )
    record = vdi.new_record(sr_ref, source.size, name, other_config=keys)
    ref = vdi.create(session, record)
    try:
        streams.import_disk(
            session,
            ref,
            streams.Content(source.pieces, source.size),
            progress=progress and (lambda share, _size: progress(share)),
        )
        return vdi.get(session, ref)
    except BaseException:
        vdi.destroy(session, ref)
        raise
