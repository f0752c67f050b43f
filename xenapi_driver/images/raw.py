# SPDX-License-Identifier: Apache-2.0
"""Images that are a disk's bytes, plain or packed in some way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from xenapi_driver import exceptions
from xenapi_driver.images import ami, kinds, qcow2, tgz
from xenapi_driver.images.source import ImageSource

# How files begin that are no raw disks but are given for such; no boot sector does.
_OTHERS = {
    b"QFI\xfb": "qcow2",
    b"conectix": "vhd",
    b"vhdxfile": "vhdx",
    b"KDMV": "vmdk",
    b"\x1f\x8b\x08": "gzipped, for which container_format is tgz",
}


@dataclass(frozen=True)
class RawContent:
    """A disk's bytes from its first on.

    :ivar image_id: whose they are
    :ivar size: bytes of the disk, which ``pieces`` gives in all
    :ivar pieces: to be read once; only at its end is it known to be undamaged
    :ivar again: gives the pieces, from the begin again with each call after the first;
        None where they can be had once
    :ivar file: with the same bytes and with holes for zeros, where there is one; it
        is known to be undamaged
    """

    image_id: str
    size: int
    pieces: Iterator[bytes]
    file: BinaryIO | None = None
    again: Callable[[], Iterator[bytes]] | None = None


@contextlib.contextmanager
def opened(
    source: ImageSource,
    kind: str,
    accept: Callable[[int], None],
    work_dir: str | None = None,
) -> Iterator[RawContent]:
    """Give the disk of an image of this kind, to be read within the block.

    :param accept: raises when a disk of so many bytes does not suit; called before
        any of it can be read
    :param work_dir: where an image is put down that has to be, None for the system's
        folder for such files
    :raises exceptions.ImageError: it is not what it says, here or while it is read
    :raises exceptions.UnfitHost: this machine cannot read it
    """
    if kind == kinds.QCOW2:
        with (
            contextlib.closing(source.pieces()) as pieces,
            qcow2.converted(source.image_id, pieces, work_dir, accept) as made,
        ):
            _refuse_empty(source.image_id, made.size)
            yield RawContent(source.image_id, made.size, _of_file(made.file), made.file)
        return
    with contextlib.ExitStack() as stack:

        def begun() -> tgz.Disk:
            pieces = stack.enter_context(contextlib.closing(source.pieces()))
            return _begun(source, kind, pieces)

        first = begun()
        _refuse_empty(source.image_id, first.size)
        accept(first.size)
        coming = [first.pieces]

        def again() -> Iterator[bytes]:
            return coming.pop() if coming else begun().pieces

        yield RawContent(source.image_id, first.size, first.pieces, again=again)


def _begun(source: ImageSource, kind: str, pieces: Iterator[bytes]) -> tgz.Disk:
    if kind == kinds.TGZ:
        return tgz.disk(source.image_id, pieces)
    plain = _plain(source, pieces)
    if kind == kinds.RAW:
        return tgz.Disk(source.size, plain)
    if kind == kinds.AMI:
        size = ami.disk_size(source.image_id, source.size)
        return tgz.Disk(size, ami.pieces(source.image_id, source.size, plain))
    raise AssertionError(f"{kind} images have no disk in them")


def _plain(source: ImageSource, pieces: Iterator[bytes]) -> Iterator[bytes]:
    given = 0
    for piece in pieces:
        if not given:
            _refuse_others(source.image_id, piece)
        given += len(piece)
        if given > source.size:
            raise _other_size(source, "more")
        yield piece
    if given < source.size:
        raise _other_size(source, str(given))


def _refuse_empty(image_id: str, size: int) -> None:
    """Refuse what would become a blank disk, of a server that never boots."""
    if not size:
        raise exceptions.ImageUnusable(
            image_id, f"Image {image_id} is empty, or holds a disk of no bytes."
        )


def _other_size(source: ImageSource, came: str) -> exceptions.TransferFailed:
    return exceptions.TransferFailed(
        source.image_id,
        f"Image {source.image_id} has {source.size} bytes by what the image service "
        f"says, and {came} came.",
    )


def _refuse_others(image_id: str, begin: bytes) -> None:
    for magic, name in _OTHERS.items():
        if begin.startswith(magic):
            raise exceptions.ImageUnusable(
                image_id,
                f"Image {image_id} is said to be raw, but is {name}: correct what the "
                "image service says of it.",
            )


def _of_file(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(tgz.PIECE):
        yield piece
