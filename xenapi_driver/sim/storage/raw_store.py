# SPDX-License-Identifier: Apache-2.0
"""A library of raw images: a directory of ``*.iso`` and ``*.img`` files."""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from xenapi_driver.sim.storage import raw_link
from xenapi_driver.sim.storage.vhd_store import (
    Broken,
    Missing,
    Room,
    Seen,
    VhdInfo,
    parts,
    used_bytes,
)

_SUFFIXES = (".iso", ".img")
_BLOCK = 2 * 1024 * 1024


class RawImage:
    """An opened image.

    :ivar virtual_size: its size in bytes
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.virtual_size = os.fstat(file.fileno()).st_size

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks of 2 MiB that are no holes."""
        return sorted(raw_link.data_blocks(self._file.fileno(), _BLOCK))

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of it."""
        return os.pread(self._file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes into it; it never grows.

        :raises Broken: they would lie outside
        """
        if offset < 0 or offset + len(data) > self.virtual_size:
            raise Broken(f"{len(data)} bytes at {offset} are not inside the image.")
        os.pwrite(self._file.fileno(), data, offset)


class RawStore:
    """The images of one SR, each known by its file's name."""

    format = "raw"

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._lock = threading.RLock()
        self._seen = Seen()
        path.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def location(uuid: str) -> str:
        """Return the name of a new image's file."""
        return f"{uuid}.img"

    def path_of(self, name: str) -> Path:
        """Return the file of an image, whether or not it exists."""
        if Path(name).name != name or not name.endswith(_SUFFIXES):
            raise Missing(f"{name!r} is no image of the library.")
        return self.path / name

    def used_bytes(self) -> int:
        """Return the bytes that the images take, holes left out."""
        return self._seen.look(used_bytes(self.path, holes=False))

    def seen_bytes(self) -> int | None:
        """Return about the same without a look; None: it is too long ago."""
        return self._seen.recent()

    def expect(self, size: int) -> None:
        """Count bytes that are about to be written."""
        self._seen.add(size)

    def create(self, name: str, size: int) -> None:
        """Make an image of zeros; it takes no room yet."""
        try:
            raw_link.create(self.path_of(name), size)
        except FileExistsError:
            raise Broken(f"{name} exists already.") from None

    def stage_data(
        self, name: str, size: int, content: Iterable[tuple[int, bytes]]
    ) -> None:
        """Write an image that a scan does not find before it is published."""
        room = Room(self)
        try:
            with open(self._staged(name), "wb") as file:
                file.truncate(size)
                for offset, data in content:
                    room.take(len(data))
                    file.seek(offset)
                    file.write(data)
        except BaseException:
            self.discard(name)
            raise

    def publish(self, name: str) -> None:
        """Make a staged image one of the library."""
        self._staged(name).rename(self.path_of(name))

    def replace(self, name: str) -> None:
        """Put a staged image in the place of one that there is."""
        self._staged(name).replace(self.path_of(name))

    def discard(self, name: str) -> None:
        """Remove a staged image; one that was published stays."""
        self._staged(name).unlink(missing_ok=True)

    def _staged(self, name: str) -> Path:
        return self.path_of(name).with_suffix(".copying")

    def destroy(self, name: str) -> None:
        """Remove an image."""
        try:
            self.path_of(name).unlink()
        except FileNotFoundError:
            raise Missing(f"There is no image {name}.") from None

    def scan(self) -> dict[str, VhdInfo]:
        """Return every image by its file's name."""
        found = {}
        for file in sorted(self.path.iterdir()):
            if file.suffix in _SUFFIXES:
                with contextlib.suppress(Missing):
                    found[file.name] = self.info(file.name)
        return found

    def info(self, name: str) -> VhdInfo:
        """Return what a scan says of one image.

        :raises Missing: there is none
        """
        try:
            about = self.path_of(name).stat()
        except FileNotFoundError:
            raise Missing(f"There is no image {name}.") from None
        return VhdInfo(name, about.st_size, about.st_blocks * 512, None, False)

    def data(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the parts that are not all zeros."""
        with self.open(name) as image:
            yield from parts(image)

    def virtual_size(self, name: str) -> int:
        """Return the size of an image."""
        with self.open(name) as image:
            return image.virtual_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an image."""
        with self.open(name) as image:
            return image.read(offset, length)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into an image; it never grows."""
        with self._lock, self.open(name, writable=True) as image:
            Room(self).take(len(data))
            image.write(offset, data)

    @contextlib.contextmanager
    def open(self, name: str, writable: bool = False) -> Iterator[RawImage]:
        """Open an image.

        :raises Missing: there is none of this name
        """
        mode = "r+b" if writable else "rb"
        try:
            file = open(self.path_of(name), mode)  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            raise Missing(f"There is no image {name}.") from None
        with file:
            yield RawImage(file)
