# SPDX-License-Identifier: Apache-2.0
"""VHDs as real block devices, for disks that are plugged into the compute VM or dom0.

A disk is written out flat to a raw file, a loop device stands on that, and what
changed is written back into the VHD when the device goes. Needs root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from xenapi_driver.sim.storage import raw_link, vhd
from xenapi_driver.sim.storage.vhd_chain import Chain

# <linux/loop.h>
_GET_STATUS, _SET_STATUS = 0x4C05, 0x4C04
_STATUS_SIZE = 232
_INODE_AT, _FLAGS_AT = 8, 52
_AUTOCLEAR = 4

# How long a device may take to go free; udev looks into each that changes.
_PATIENCE = 2.0


class NoBlockDevices(Exception):
    """A VHD could not be shown as a block device; the text says why."""


class DeviceBusy(NoBlockDevices):
    """The device is still open or mounted; it stays attached and usable."""


@dataclass(frozen=True)
class _Attached:
    disk: Path
    raw: Path
    inode: int
    loop: Path
    link: Path


class BlockDevices:
    """The block devices of one dom0. Safe to share between threads.

    :param raw_dir: where the flat copies lie while devices are attached
    """

    def __init__(self, raw_dir: Path) -> None:
        self.raw_dir = raw_dir
        self._lock = threading.Lock()
        self._attached: dict[str, _Attached] = {}
        self._closed = False

    def __contains__(self, device: str) -> bool:
        """Return whether a device of this name is attached."""
        return device in self._attached

    def attach(
        self, disk: Path, device: str, link_dir: Path, read_only: bool = False
    ) -> Path:
        """Show ``disk`` as ``link_dir/device``, such as ``xvdb``.

        :raises NoBlockDevices: not root, no loop devices, or the name is taken
        """
        _require_loops()
        link = link_dir / device
        with self._lock:
            if self._closed:
                raise NoBlockDevices("The host is shut down.")
            if Path(device).name != device or device in self._attached:
                raise NoBlockDevices(f"The device name {device} is taken or no name.")
            if os.path.lexists(link):
                raise NoBlockDevices(f"{link} exists already.")
            raw = self.raw_dir / f"{device}.raw"
            try:
                self._attached[device] = _set_up(disk, raw, link, read_only)
            except (OSError, vhd.BadVhd) as error:
                raise NoBlockDevices(f"{disk.name}: {error}") from error
        return link

    def take_up(
        self, disk: Path, device: str, link_dir: Path, read_only: bool = False
    ) -> None:
        """Show a disk again that an earlier process of this host showed.

        After a kill its device may still stand: it is taken over with its users, or,
        where it is gone, what was written to it reaches the VHD first.

        :raises NoBlockDevices: as for :meth:`attach`
        """
        _require_loops()
        raw, link = self.raw_dir / f"{device}.raw", link_dir / device
        with self._lock:
            if raw.exists():
                loop = _loop_of(raw)
                found = _Attached(disk, raw, raw.stat().st_ino, loop or raw, link)
                if loop is not None:
                    self._attached[device] = found
                    return
                _save(found)
                raw.unlink()
            if link.is_symlink():
                link.unlink()
        self.attach(disk, device, link_dir, read_only)

    def clear(self, link_dir: Path | None) -> None:
        """Remove what an earlier process left and nobody took up."""
        known = {attached.raw for attached in self._attached.values()}
        for raw in set(self.raw_dir.glob("*.raw")) - known:
            loop = _loop_of(raw)
            if loop is not None:
                _losetup("-d", str(loop))
            raw.unlink(missing_ok=True)
            link = link_dir / raw.stem if link_dir is not None else raw
            if link.is_symlink():
                link.unlink()

    def detach(self, device: str, force: bool = False) -> None:
        """Write changes back into the VHD and remove the device.

        :param force: also from under a user, who sees it until he lets go of it
        :raises DeviceBusy: it is in use; nothing has changed
        :raises NoBlockDevices: the device is gone, but so are its changes
        """
        with self._lock:
            if device not in self._attached:
                raise NoBlockDevices(f"No device {device} is attached.")
            attached = self._attached[device]
            if not _is_free(attached):  # else somebody took the loop device away
                _flush(attached, exclusively=not force)
                _release(attached, force)
            attached.link.unlink(missing_ok=True)
            try:
                _save(attached)
            finally:
                # Until here the collector must leave the disk's file in its place.
                del self._attached[device]
                attached.raw.unlink(missing_ok=True)

    def sync(self, disk: Path) -> None:
        """Write back what was written so far, if the disk is attached.

        :raises NoBlockDevices: it cannot be written
        """
        with self._lock:
            for attached in self._attached.values():
                if attached.disk == disk and not _is_free(attached):
                    _flush(attached, exclusively=False)
                    _save(attached)

    def close(self) -> None:
        """Detach all; what is busy goes when its last user lets go of it."""
        with self._lock:
            self._closed = True
        for device in list(self._attached):
            try:
                self.detach(device)
            except DeviceBusy:
                with contextlib.suppress(NoBlockDevices):
                    self.detach(device, force=True)
            except NoBlockDevices:
                # It is gone; only its changes are lost, with the whole host.
                continue


def _set_up(disk: Path, raw: Path, link: Path, read_only: bool) -> _Attached:
    """Make the flat copy, the loop device and the link, or nothing of them."""
    with contextlib.ExitStack() as undo:
        undo.callback(raw.unlink, missing_ok=True)
        _flatten(disk, raw)
        options = ["-f", "--show", "-P", *(["-r"] if read_only else [])]
        loop = Path(_losetup(*options, str(raw)))
        undo.callback(_losetup, "-d", str(loop))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(loop)
        undo.pop_all()
    return _Attached(disk, raw, raw.stat().st_ino, loop, link)


def available() -> bool:
    """Return whether this user of this machine can have block devices."""
    try:
        _require_loops()
    except NoBlockDevices:
        return False
    return True


def _require_loops() -> None:
    if os.geteuid() != 0:
        raise NoBlockDevices("Block devices need root.")
    if not os.path.exists("/dev/loop-control"):
        raise NoBlockDevices("This machine has no loop devices (/dev/loop-control).")
    if shutil.which("losetup") is None:
        raise NoBlockDevices("Block devices need losetup (package mount).")


def _losetup(*arguments: str) -> str:
    answer = subprocess.run(
        ["losetup", *arguments],  # noqa: S607 - found in PATH, as checked before
        capture_output=True,
        text=True,
    )
    if answer.returncode != 0:
        raise NoBlockDevices(f"losetup failed: {answer.stderr.strip()}")
    return answer.stdout.strip()


def _loop_of(raw: Path) -> Path | None:
    """Return the loop device that stands on a file."""
    for about in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if about.read_text().rstrip("\n") == str(raw):
                return Path("/dev", about.parts[3])
    return None


def _flatten(disk: Path, raw: Path) -> None:
    """Write what a guest reads from the VHD into a sparse raw file."""
    # Not by qemu-img: it reads zeros where a parent holds the data.
    with Chain(disk) as chain, open(raw, "wb") as target:
        target.truncate(chain.virtual_size)
        for block in chain.blocks:
            offset = block * vhd.BLOCK_SIZE
            target.seek(offset)
            target.write(chain.read(offset, _length(chain, offset)))


def _length(chain: Chain, offset: int) -> int:
    return min(vhd.BLOCK_SIZE, chain.virtual_size - offset)


def _flush(attached: _Attached, exclusively: bool) -> None:
    """Have the kernel write out what it keeps for the device.

    :param exclusively: only if nobody has it mounted
    """
    loop = attached.loop
    try:
        handle = os.open(loop, os.O_RDONLY | (os.O_EXCL if exclusively else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusy(f"{attached.link} is still in use.") from error
        raise DeviceBusy(f"{loop} cannot be opened: {error}") from error
    try:
        os.fsync(handle)
    except OSError as error:
        raise DeviceBusy(f"{loop} cannot be written out: {error}") from error
    finally:
        os.close(handle)


def _release(attached: _Attached, force: bool) -> None:
    """Give the loop device back to the kernel.

    :raises DeviceBusy: somebody has it open, and not ``force``
    """
    try:
        _losetup("-d", str(attached.loop))
    except NoBlockDevices as error:
        raise DeviceBusy(str(error)) from error
    if force:
        return
    # One that is open goes with its last user, unknown to him: wait, or take back.
    deadline = time.monotonic() + _PATIENCE
    while not _is_free(attached):
        if time.monotonic() > deadline and _keep(attached):
            raise DeviceBusy(f"{attached.link} is still in use.")
        time.sleep(0.01)


def _is_free(attached: _Attached) -> bool:
    """Return whether the kernel has let go of the file behind the device."""
    backing = Path("/sys/block", attached.loop.name, "loop/backing_file")
    try:
        return backing.read_text().rstrip("\n") != str(attached.raw)
    except OSError:
        return True


def _keep(attached: _Attached) -> bool:
    """Keep a device that would go with its last user; False: it is gone."""
    handle = os.open(attached.loop, os.O_RDONLY)
    try:
        status = bytearray(_STATUS_SIZE)
        fcntl.ioctl(handle, _GET_STATUS, status)
        (inode,) = struct.unpack_from("=Q", status, _INODE_AT)
        if inode != attached.inode:
            return False
        (flags,) = struct.unpack_from("=I", status, _FLAGS_AT)
        struct.pack_into("=I", status, _FLAGS_AT, flags & ~_AUTOCLEAR)
        fcntl.ioctl(handle, _SET_STATUS, status)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise DeviceBusy(f"{attached.loop} is in use and goes: {error}") from error
    finally:
        os.close(handle)
    return True


def _save(attached: _Attached) -> None:
    """Write changes back, unless the disk was removed under the device."""
    if not attached.disk.exists():
        return
    try:
        _write_back(attached.raw, attached.disk)
    except (OSError, vhd.BadVhd) as error:
        text = f"Changes of {attached.link.name} are lost: {error}"
        raise NoBlockDevices(text) from error


def _write_back(raw: Path, disk: Path) -> None:
    """Write the sectors that differ into the leaf."""
    with open(raw, "rb") as source, Chain(disk, writable=True) as chain:
        # What neither side holds is zeros on both.
        for block in sorted(
            {*chain.blocks, *raw_link.data_blocks(source.fileno(), vhd.BLOCK_SIZE)}
        ):
            offset = block * vhd.BLOCK_SIZE
            new = os.pread(source.fileno(), _length(chain, offset), offset)
            old = chain.read(offset, len(new))
            for start, end in _differences(old, new) if old != new else []:
                chain.write(offset + start, new[start:end])


def _differences(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """Return (start, end) of the runs of sectors that differ."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(new), vhd.SECTOR):
        end = start + vhd.SECTOR
        if old[start:end] == new[start:end]:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs
