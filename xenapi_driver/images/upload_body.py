# SPDX-License-Identifier: Apache-2.0
"""An upload's bytes as Nova's image client takes them: once, and all or none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from xenapi_driver import exceptions

# At most, and each a part of the chunked request: a Glance under uwsgi takes no
# part of a megabyte, which is what glanceclient asks for.
_PIECE = 2**16


class UploadBody:
    """What glanceclient reads like a file.

    Nova's client sends it again after whatever broke. It would go on in the middle
    then, or find nothing left, and Glance would take that for the whole image.
    Therefore a second attempt raises once bytes have gone, and so does whatever
    follows an error of the source.

    :ivar given: bytes so far
    :ivar sha512: of these
    """

    def __init__(self, image_id: str, pieces: Iterable[bytes]) -> None:
        self._image_id = image_id
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self._begun = self._failed = False
        self.given = 0
        self.sha512 = hashlib.sha512()

    def __bool__(self) -> bool:
        """Return True; glanceclient asks this as an attempt begins.

        :raises exceptions.TransferFailed: it is not the first
        """
        if self._begun:
            raise self._broken()
        return True

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(_PIECE):
            yield piece

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, fewer before the end too; b"" at the end."""
        if self._failed:
            raise self._broken()
        self._begun = True
        try:
            while not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return b""
                self._rest = memoryview(piece)
        except BaseException:
            self._failed = True
            raise
        size = min(size, _PIECE)
        taken, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(taken)
        self.sha512.update(taken)
        return bytes(taken)

    def check(self, stored: int | None) -> None:
        """See that the image service has all bytes.

        :param stored: what it says, None where it does not
        :raises exceptions.TransferFailed: it has not
        """
        if stored not in (None, self.given):
            raise exceptions.TransferFailed(
                self._image_id,
                f"Image {self._image_id} could not be stored: the image service has "
                f"{stored} of {self.given} bytes.",
            )

    def _broken(self) -> exceptions.TransferFailed:
        return exceptions.TransferFailed(
            self._image_id,
            f"Image {self._image_id} could not be stored: the upload broke after "
            f"{self.given} bytes; nova-compute's log says why.",
        )
