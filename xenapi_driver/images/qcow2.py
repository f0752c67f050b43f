# SPDX-License-Identifier: Apache-2.0
"""QCOW2 images, converted by ``qemu-img`` on the machine of nova-compute.

A host may read QCOW2 itself (XAPI 25.27), but only forwards, and the tables of an
image may lie anywhere; ``qemu-img`` reads them all. The image is a tenant's: it is
looked at before ``qemu-img`` is, which then works with bounded memory, time and files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from oslo_utils import units
from oslo_utils.imageutils import format_inspector

from xenapi_driver import exceptions

PROGRAM = "qemu-img"

# QEMU, docs/interop/qcow2.rst, "Header": l1_size, l1_table_offset.
_L1 = struct.Struct(">IQ")
_L1_AT = 36
# Addresses, not memory in use: 64 threads reserve 8 MiB each for their stacks.
_MEMORY = 2 * units.Gi
# Of processor time, for a disk of any size: a terabyte of zlib takes two hours.
_CPU_SECONDS = 4 * 3600
# Of an image beside its disk's data: tables, and lost room. Twice the disk is for
# snapshots within the image. The disk is bounded by the flavor, and so this is.
_MOST_BESIDE = units.Gi
_LEAKS = 3  # exit code of check: only room is lost
_LONGEST_LINE = 500


@dataclass(frozen=True)
class Converted:
    """What became of an image.

    :ivar size: bytes of the disk
    :ivar file: with those bytes, sparse where the image has none
    """

    size: int
    file: BinaryIO


def is_installed() -> bool:
    """Say whether this machine has what converts images."""
    return shutil.which(PROGRAM) is not None


@contextlib.contextmanager
def converted(
    image_id: str,
    pieces: Iterable[bytes],
    folder: str | None,
    accept: Callable[[int], None],
) -> Iterator[Converted]:
    """Give the disk in an image as a file that exists for the time of the block.

    :param pieces: the image, which is verified when they end
    :param folder: of nova-compute's machine, None for the system's for such files;
        needs room for the image and for what it holds
    :param accept: raises when a disk of so many bytes does not suit; called as soon as
        the size is known, when hardly more was read
    :raises exceptions.ImageError: one of its kinds
    :raises exceptions.UnfitHost: there is no qemu-img, or no room
    """
    if not is_installed():
        raise exceptions.UnfitHost(
            f"Image {image_id} is in qcow2, and {PROGRAM} is not installed on the "
            "machine of nova-compute",
            "install it there (package qemu-utils or qemu-img)",
        )
    folder = folder or tempfile.gettempdir()
    with contextlib.ExitStack() as stack:
        # Without names: whatever ends this process, their room is free again.
        with _no_room(image_id, folder):
            image = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            size = _saved(image_id, pieces, image, accept)
            disk = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        with image:
            _convert(image_id, image, disk, size, folder)
        yield Converted(size, disk)


@contextlib.contextmanager
def _no_room(image_id: str, folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _lack_of_room(image_id, folder, exc.strerror or str(exc)) from exc


def _lack_of_room(image_id: str, folder: str, why: str) -> exceptions.UnfitHost:
    return exceptions.UnfitHost(
        f"Image {image_id} could not be converted in {folder} on the machine of "
        f"nova-compute ({why})",
        "it takes room for the image and for what is in it",
    )


def _saved(
    image_id: str,
    pieces: Iterable[bytes],
    out: BinaryIO,
    accept: Callable[[int], None],
) -> int:
    """Write the image down and return its disk's size."""
    inspector = format_inspector.QcowInspector()
    size = 0
    for piece in pieces:
        if not inspector.complete:
            inspector.eat_chunk(piece)
            if inspector.complete:
                size = _inspected(image_id, inspector)
                accept(size)
        out.write(piece)
        if out.tell() > 2 * size + _MOST_BESIDE:
            raise _unusable(
                image_id, f"it is more than twice as large as its disk of {size} bytes"
            )
    out.flush()
    # qemu-img misses what lies behind the end, and takes it for zeros.
    if not inspector.complete or out.tell() < _end_of_tables(inspector):
        raise _unusable(image_id, "it is too short for one")
    return size


def _end_of_tables(inspector: format_inspector.QcowInspector) -> int:
    """Return where the table of all tables (L1) ends in the file."""
    entries, offset = _L1.unpack_from(inspector.region("header").data, _L1_AT)
    return int(offset + 8 * entries)


def _inspected(image_id: str, inspector: format_inspector.QcowInspector) -> int:
    """Return the size of the disk in an image that is safe to convert."""
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as exc:
        found = "; ".join(str(one) for one in exc.failures.values())
        raise _unusable(image_id, found) from exc
    except format_inspector.ImageFormatError as exc:
        raise _unusable(image_id, "its content is something else") from exc
    return int(inspector.virtual_size)


def _convert(
    image_id: str, image: BinaryIO, disk: BinaryIO, size: int, folder: str
) -> None:
    # To convert what is damaged or cut is no error: it gives zeros.
    checked, told = _qemu_img(
        units.Mi, (image,), "check", "-q", "-f", "qcow2", _path(image)
    )
    if checked not in (0, _LEAKS):
        raise _unusable(image_id, f"{PROGRAM} check says {told or checked}")
    done, told = _qemu_img(
        size + units.Mi,
        (image, disk),
        *("convert", "-q", "-f", "qcow2", "-O", "raw", "-S", "64k"),
        *(_path(image), _path(disk)),
    )
    if done and os.strerror(errno.ENOSPC) in told:
        raise _lack_of_room(image_id, folder, told)
    if done:
        raise _unusable(image_id, f"{PROGRAM} convert says {told or done}")


def _path(file: BinaryIO) -> str:
    """Return how a program that was given the file opens it: it has no name."""
    return f"/proc/self/fd/{file.fileno()}"


def _qemu_img(
    most_written: int, files: Iterable[BinaryIO], *words: str
) -> tuple[int, str]:
    """Run it with bounded memory, time and files; return its code and first words.

    :param most_written: bytes of the largest file that it may write
    :param files: that it is given
    """
    limits = {"as": _MEMORY, "cpu": _CPU_SECONDS, "fsize": most_written, "core": 0}
    # As oslo.concurrency starts it, which however would keep all that a check says.
    limiter = [sys.executable, "-m", "oslo_concurrency.prlimit"]
    limiter += [f"--{name}={limit}" for name, limit in limits.items()]
    with subprocess.Popen(
        [*limiter, "--", PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[file.fileno() for file in files],
        # Each of its threads would reserve memory for itself.
        env={**os.environ, "LC_ALL": "C", "MALLOC_ARENA_MAX": "2"},
    ) as process:
        said = cast(BinaryIO, process.stderr)
        first = said.readline(_LONGEST_LINE).decode(errors="replace").strip()
        while said.read(_LONGEST_LINE):
            pass
    return process.returncode, first.removeprefix(f"{PROGRAM}: ")


def _unusable(image_id: str, why: str) -> exceptions.ImageUnusable:
    return exceptions.ImageUnusable(
        image_id, f"Image {image_id} cannot be used as qcow2: {why}."
    )
