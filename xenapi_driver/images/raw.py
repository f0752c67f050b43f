# SPDX-License-Identifier: Apache-2.0
"""Images that are a disk's bytes, plain or in an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xenapi_driver import exceptions
from xenapi_driver.images import kinds
from xenapi_driver.images.source import ImageSource


@dataclass(frozen=True)
class RawContent:
    """A disk's bytes from its first on.

    :ivar image_id: whose they are
    :ivar size: bytes of the disk, which ``pieces`` gives in all
    :ivar pieces: to be read once; only at its end is it known to be undamaged
    """

    image_id: str
    size: int
    pieces: Iterator[bytes]


def content(source: ImageSource, kind: str) -> RawContent:
    """Return what an image of this kind holds; reading begins.

    :raises exceptions.ImageError: it is not what it says
    """
    if kind != kinds.RAW:
        raise exceptions.NotSupportedYet(
            f"This release of xenapi-driver does not boot {kind} images."
        )
    return RawContent(source.image_id, source.size, source.pieces())
