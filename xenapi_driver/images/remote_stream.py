# SPDX-License-Identifier: Apache-2.0
"""The ``vdi_remote_stream`` handler: XAPI's import and export handlers, on any SR.

The data goes through nova-compute in pieces, and nothing is put down on the way::

    Glance  --- tar.gz of VHDs --->  nova-compute  --- a VHD each --->  XAPI, one disk
    Glance  <-- tar.gz, 0.vhd -----  nova-compute  <-- one VHD -------  XAPI

Images that ``direct_vhd`` wrote are read as well: each VHD of a chain is imported onto
the same disk, less what those nearer to the leaf have written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType

from xenapi_driver import exceptions
from xenapi_driver.formats import layers, tarball, vhd
from xenapi_driver.images import entries, imported
from xenapi_driver.images.new_disk import being_filled
from xenapi_driver.images.raw import RawContent
from xenapi_driver.images.repeating import until_moved
from xenapi_driver.images.rules import TransferRules
from xenapi_driver.images.source import ImageSource, ImageTarget, Stored
from xenapi_driver.xapi import sr, streams, vdi
from xenapi_driver.xapi.home import Home

Progress = Callable[[float], None]

MEMBER = "0.vhd"

# The longest chain that the documented image format allows.
_LONGEST_CHAIN = 16
# An old swap.vhd, and whatever else is no disk of the image.
_MOST_IGNORED = 4 << 30
# Of a VHD beside its disk and its tables, such as gaps between blocks: as much as
# direct_vhd takes. A few megabytes of gzip could be hours of reading.
_MOST_BESIDE = 10 << 30
_NUMBERED = re.compile(r"(\d{1,2})\.vhd", re.ASCII)
_OLD_NAMES = ("snap.vhd", "image.vhd", "base.vhd")  # leaf first


class RemoteStream:
    """Moves VHD images through XAPI's handlers."""

    name = "vdi_remote_stream"
    longest_chain = None  # the host exports a chain as one disk

    def __init__(self, home: Home, rules: TransferRules) -> None:
        self._home = home
        self.rules = rules

    @staticmethod
    def check_sr(record: sr.SrRecord, path: str | None) -> None:
        """Accept any SR: XAPI reads and writes its disks."""

    def fetch_vhd(
        self,
        source: ImageSource,
        max_bytes: int | None,
        progress: Progress | None = None,
    ) -> vdi.VdiRecord:
        """Make one disk of a VHD image; on a failure there is none.

        A transfer that breaks, or whose bytes are not those that the image service
        promised, begins anew, as often as the rules allow; Nova's client turns to
        the next image service each time.

        :param max_bytes: of the flavor's disk, None for no limit
        :raises exceptions.ImageError: one of its kinds
        :raises errors.XapiError: the host refused
        """

        def attempt() -> vdi.VdiRecord:
            with _Incoming(self._home, source, max_bytes, progress) as incoming:
                return incoming.run()

        return until_moved(self.rules.attempts, attempt)

    def write_raw(
        self,
        content: RawContent,
        sr_ref: str | None = None,
        progress: Progress | None = None,
    ) -> vdi.VdiRecord:
        """Make a disk of other content; see :func:`imported.write_raw`."""
        return imported.write_raw(self._home, content, sr_ref, progress)

    def store(
        self,
        target: ImageTarget,
        leaf: vdi.VdiRecord,
        chain: list[str],
        progress: Progress | None = None,
    ) -> Stored:
        """Give a disk, to which nobody writes, to an image that waits for it.

        The host exports the chain as one VHD, which becomes the only member of the
        archive.

        :raises exceptions.ImageError: one of its kinds; the image has no data then
        :raises errors.XapiError: the host could not give the disk
        """

        def tell(share: float, _size: int) -> None:
            if progress is not None:
                progress(share)

        level = self.rules.compression_level
        exporting = streams.export_disk(
            self._home.session, leaf.ref, format="vhd", progress=tell
        )
        with exporting as export:
            archive = _archive(iter(export), level)
            return target.give(archive, "vhd", "ovf")


class _Incoming:
    """One attempt to bring an image in. As a context it removes what failed."""

    def __init__(
        self,
        home: Home,
        source: ImageSource,
        max_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self._home = home
        self._source = source
        self._max_bytes = max_bytes
        self._progress = progress
        self._pieces = self._counted()
        self._links = layers.Layers()
        self._chain = _Chain()
        self._making = contextlib.ExitStack()
        self._ref: str | None = None
        self._size = 0

    def __enter__(self) -> _Incoming:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pieces.close()
        self._making.__exit__(kind, value, trace)

    def run(self) -> vdi.VdiRecord:
        """Import every VHD, and return the disk once all of the image is good."""
        try:
            for member in tarball.members(self._pieces):
                if self._chain.counts(member):
                    self._add(member)
            for _rest in self._pieces:
                continue
            self._chain.check()
        except (tarball.BadArchive, vhd.BadVhd) as exc:
            # What was damaged on the way is told by its hash, and comes anew.
            for _rest in self._pieces:
                continue
            raise exceptions.ImageUnusable(
                self._source.image_id,
                f"Image {self._source.image_id} cannot be used as vhd: {exc}.",
            ) from exc
        return vdi.get(self._home.session, self._disk)

    @property
    def _disk(self) -> str:
        if self._ref is None:
            raise ValueError("No disk was made yet.")
        return self._ref

    def _counted(self) -> Generator[bytes, None, None]:
        """Give the image's bytes, and tell how many of them are in."""
        taken = 0
        for piece in self._source.pieces():
            yield piece
            taken += len(piece)
            if self._progress is not None and self._source.size:
                self._progress(min(0.99, taken / self._source.size))
        if self._source.size not in (0, taken):
            raise exceptions.TransferFailed(
                self._source.image_id,
                f"Image {self._source.image_id} has {self._source.size} bytes, and "
                f"{taken} came.",
            )

    def _add(self, member: tarball.Member) -> None:
        try:
            reader = vhd.Reader(member.read)
            if member.size > vhd.length_of_full(reader.virtual_size) + _MOST_BESIDE:
                raise vhd.BadVhd(
                    f"it has {member.size} bytes, for a disk of {reader.virtual_size}"
                )
            self._make_room(reader.virtual_size)
            place = self._chain.add(member.name, reader)
            length, pieces = self._links.stream(reader, place)
            self._import(length, pieces)
        except vhd.BadVhd as exc:
            raise vhd.BadVhd(f"{member.name}: {exc}") from exc

    def _make_room(self, size: int) -> None:
        """Have a disk that can take one of this size.

        :raises exceptions.ImageTooLarge: before a byte of it is written
        """
        if self._max_bytes is not None and size > self._max_bytes:
            raise exceptions.ImageTooLarge(
                self._source.image_id,
                f"Image {self._source.image_id} has a disk of {size} bytes, more than "
                f"the flavor's {self._max_bytes} bytes: use a flavor with a larger "
                "disk.",
            )
        if self._ref is None:
            # The name that it gets in the cache, if it is kept.
            name = entries.label(self._source.image_id)
            making = being_filled(self._home, size, name=name)
            self._ref = self._making.enter_context(making)
            self._size = size
        elif size > self._size:
            # A server's disk that had grown, after what it was made on.
            vdi.resize(self._home.session, self._ref, size)
            self._size = size

    def _import(self, length: int, pieces: Iterable[bytes]) -> None:
        streams.import_disk(
            self._home.session, self._disk, streams.Content(pieces, length, "vhd")
        )


class _Chain:
    """The VHDs of an image, which come in any order, by their names."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        # Whether it needs a parent, and its virtual size.
        self._disks: dict[int, tuple[bool, int]] = {}
        self._ignored = 0

    def counts(self, member: tarball.Member) -> bool:
        """Say whether a member is one of the image's disks."""
        if member.name.endswith(".vhd") and member.name != "swap.vhd":
            return True
        self._ignored += member.size
        if self._ignored > _MOST_IGNORED:
            raise vhd.BadVhd(f"more than {_MOST_IGNORED} bytes are no disk")
        return False

    def add(self, name: str, reader: vhd.Reader) -> int:
        """Return a disk's place: 0 for the leaf, and more the nearer to the base.

        :raises BadVhd: another disk has it, or the two are no chain
        """
        place = self._place(name)
        if place in self._names:
            raise vhd.BadVhd(f"it is there twice, also as {self._names[place]}")
        if len(self._names) == _LONGEST_CHAIN:
            raise vhd.BadVhd(f"the chain has more than {_LONGEST_CHAIN} disks")
        disk = reader.needs_parent, reader.virtual_size
        for at, other in self._disks.items():
            nearer, farther = (disk, other) if place < at else (other, disk)
            if not nearer[0]:
                raise vhd.BadVhd("a disk that needs no other was made on another")
            if nearer[1] < farther[1]:
                raise vhd.BadVhd("a disk is smaller than the one it was made on")
        self._names[place], self._disks[place] = name, disk
        return place

    def _place(self, name: str) -> int:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None and str(int(numbered[1])) == numbered[1]:
            return int(numbered[1])
        if name in _OLD_NAMES:
            return _OLD_NAMES.index(name)
        if self._names:
            raise vhd.BadVhd("its name does not tell its place in the chain")
        return 0

    def check(self) -> None:
        """Refuse a chain that lacks something, now that all has come.

        :raises BadVhd: what is wrong
        """
        if not self._names:
            raise vhd.BadVhd("there is no VHD file in it")
        places = sorted(self._names)
        names = [self._names[place] for place in places]
        old = set(names) <= set(_OLD_NAMES)
        if len(names) > 1 and not old:
            for number, name in enumerate(names):
                if name != f"{number}.vhd":
                    raise vhd.BadVhd(f"{number}.vhd is missing")
        if self._disks[places[-1]][0]:
            raise vhd.BadVhd(f"{names[-1]} was made on a disk that is not in it")


def _archive(pieces: Iterator[bytes], level: int | None) -> Iterator[bytes]:
    """Give the image that an exported disk becomes.

    Its blocks are laid out anew, so that the length is known before: an archive wants
    it first. It is read to its end, as only then the host says that it was good.
    """
    reader = vhd.Reader(_Readable(pieces).read)
    length = vhd.length(reader.virtual_size, len(reader.blocks))
    parts = ((bitmap, data) for _block, bitmap, data in reader.parts())
    disk = vhd.dynamic(reader.virtual_size, reader.blocks, parts)
    return tarball.packed(MEMBER, length, disk, level)


class _Readable:
    """An iterator of bytes that is read by size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = memoryview(piece)
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)
