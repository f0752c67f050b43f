# SPDX-License-Identifier: Apache-2.0
"""A library of raw images: a directory of ``*.iso`` and ``*.img`` files."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from xenapi_driver.sim.storage import (
    Broken,
    Missing,
    NoSpace,
    VhdInfo,
    used_bytes,
)

_SUFFIXES = (".iso", ".img")
_STEP = 1024 * 1024


class RawStore:
    """The images of one SR, each known by its file's name."""

    format = "raw"

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._lock = threading.RLock()
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
        return used_bytes(self.path, holes=False)

    def create(self, name: str, size: int) -> None:
        """Make an image of zeros; it takes no room yet."""
        path = self.path_of(name)
        try:
            with open(path, "xb") as file:
                file.truncate(size)
        except FileExistsError:
            raise Broken(f"{name} exists already.") from None

    def stage_data(
        self, name: str, size: int, parts: Iterable[tuple[int, bytes]]
    ) -> None:
        """Write an image that a scan does not find before it is published."""
        try:
            with open(self._staged(name), "wb") as file:
                file.truncate(size)
                for offset, data in parts:
                    self._require(len(data))
                    file.seek(offset)
                    file.write(data)
        except BaseException:
            self.discard(name)
            raise

    def publish(self, name: str) -> None:
        """Make a staged image one of the library."""
        self._staged(name).rename(self.path_of(name))

    def discard(self, name: str) -> None:
        """Remove a staged image; one that was published stays."""
        self._staged(name).unlink(missing_ok=True)

    def _staged(self, name: str) -> Path:
        return self.path_of(name).with_suffix(".copying")

    def _require(self, size: int) -> None:
        if self.used_bytes() + size > self.size_bytes:
            raise NoSpace(f"{size} bytes more do not fit.")

    def destroy(self, name: str) -> list[str]:
        """Remove an image."""
        try:
            self.path_of(name).unlink()
        except FileNotFoundError:
            raise Missing(f"There is no image {name}.") from None
        return [name]

    def scan(self) -> dict[str, VhdInfo]:
        """Return every image by its file's name."""
        found = {}
        for file in sorted(self.path.iterdir()):
            if file.suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    about = file.stat()
                    taken = about.st_blocks * 512
                    info = VhdInfo(file.name, about.st_size, taken, None, False)
                    found[file.name] = info
        return found

    def data(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the parts that are not all zeros."""
        with self._open(name, "rb") as file:
            offset = 0
            while chunk := file.read(_STEP):
                if chunk.strip(b"\0"):
                    yield offset, chunk
                offset += len(chunk)

    def virtual_size(self, name: str) -> int:
        """Return the size of an image."""
        with self._open(name, "rb"):
            return self.path_of(name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an image."""
        with self._open(name, "rb") as file:
            file.seek(offset)
            return bytes(file.read(length))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into an image; it never grows."""
        with self._lock, self._open(name, "r+b") as file:
            if offset + len(data) > self.path_of(name).stat().st_size:
                raise Broken(f"{len(data)} bytes at {offset} are not inside {name}.")
            self._require(len(data))
            file.seek(offset)
            file.write(data)

    @contextlib.contextmanager
    def _open(self, name: str, mode: str) -> Iterator[IO[bytes]]:
        try:
            file = open(self.path_of(name), mode)  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            raise Missing(f"There is no image {name}.") from None
        with file:
            yield file
