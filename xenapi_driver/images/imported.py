# SPDX-License-Identifier: Apache-2.0
"""Disks written through XAPI's import handler: any SR, no plugin, no plugging."""

from __future__ import annotations

from collections.abc import Callable

from xenapi_driver.images.raw import RawContent
from xenapi_driver.xapi import streams, vdi
from xenapi_driver.xapi.home import Home


def write_raw(
    home: Home,
    content: RawContent,
    sr_ref: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Make a disk with this content, unnamed; on a failure there is none.

    :param sr_ref: of another SR than the servers' disks'
    :param progress: called with 0.0 to 1.0
    :raises exceptions.ImageError: the image is damaged
    :raises errors.XapiError: the host refused
    """
    session = home.session
    ref = vdi.create(session, vdi.new_record(sr_ref or home.sr.ref, content.size))
    try:
        streams.import_disk(
            session,
            ref,
            streams.Content(content.pieces, content.size),
            progress=None if progress is None else lambda share, _size: progress(share),
        )
        return vdi.get(session, ref)
    except BaseException:
        vdi.destroy(session, ref)
        raise
