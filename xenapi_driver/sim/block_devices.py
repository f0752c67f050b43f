# SPDX-License-Identifier: Apache-2.0
"""VHDs as real block devices, for disks that are plugged into the compute VM.

A disk is written out flat to a raw file, a loop device stands on that, and what
changed is written back into the VHD when the device goes. Needs root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from xenapi_driver.sim import vhd
from xenapi_driver.sim.vhd_chain import Chain


class NoBlockDevices(Exception):
    """A VHD could not be shown as a block device; the text says why."""


class DeviceBusy(NoBlockDevices):
    """The device is still open or mounted; it stays attached."""


@dataclass(frozen=True)
class _Attached:
    disk: Path
    raw: Path
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

    def attach(self, disk: Path, device: str, link_dir: Path) -> Path:
        """Show ``disk`` as ``link_dir/device``, such as ``xvdb``.

        :raises NoBlockDevices: not root, no loop devices, or the name is taken
        """
        _require_loops()
        link = link_dir / device
        with self._lock:
            if Path(device).name != device or device in self._attached:
                raise NoBlockDevices(f"The device name {device} is taken or no name.")
            if os.path.lexists(link):
                raise NoBlockDevices(f"{link} exists already.")
            raw = self.raw_dir / f"{device}.raw"
            try:
                _flatten(disk, raw)
                loop = _losetup("-f", "--show", "-P", str(raw))
            except vhd.BadVhd as error:
                raw.unlink(missing_ok=True)
                raise NoBlockDevices(f"{disk.name}: {error}") from error
            except BaseException:
                raw.unlink(missing_ok=True)
                raise
            link_dir.mkdir(parents=True, exist_ok=True)
            link.symlink_to(loop)
            self._attached[device] = _Attached(disk, raw, Path(loop), link)
        return link

    def detach(self, device: str) -> None:
        """Write changes back into the VHD and remove the device.

        :raises DeviceBusy: it is mounted; nothing has changed
        """
        with self._lock:
            if device not in self._attached:
                raise NoBlockDevices(f"No device {device} is attached.")
            attached = self._attached[device]
            _flush_unused(attached.loop)
            _losetup("-d", str(attached.loop))
            _wait_until_free(attached.loop)
            del self._attached[device]
            attached.link.unlink(missing_ok=True)
            try:
                if attached.disk.exists():  # else it was removed under the device
                    _write_back(attached.raw, attached.disk)
            except (OSError, vhd.BadVhd) as error:
                text = f"Changes of {device} are lost: {error}"
                raise NoBlockDevices(text) from error
            finally:
                attached.raw.unlink(missing_ok=True)

    def close(self) -> None:
        """Detach all; what is busy goes when its last user lets go of it."""
        attached: _Attached | None
        for device in list(self._attached):
            try:
                self.detach(device)
            except NoBlockDevices:
                attached = self._attached.pop(device, None)
                if attached is None:  # only writing back has failed
                    continue
                attached.link.unlink(missing_ok=True)
                with contextlib.suppress(NoBlockDevices):
                    _losetup("-d", str(attached.loop))
                attached.raw.unlink(missing_ok=True)


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


def _flush_unused(loop: Path) -> None:
    try:
        handle = os.open(loop, os.O_RDWR | os.O_EXCL)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusy(f"{loop} is still in use.") from error
        raise NoBlockDevices(f"{loop} cannot be opened: {error}") from error
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _wait_until_free(loop: Path) -> None:
    """Wait until the kernel let go of the file behind the device, 10 s at most."""
    backing = Path("/sys/block", loop.name, "loop/backing_file")
    deadline = time.monotonic() + 10
    while backing.exists():
        if time.monotonic() > deadline:
            raise DeviceBusy(f"{loop} is still in use.")
        time.sleep(0.01)


def _write_back(raw: Path, disk: Path) -> None:
    """Write the sectors that differ into the leaf."""
    with open(raw, "rb") as source, Chain(disk, writable=True) as chain:
        # What neither side holds is zeros on both.
        for block in sorted({*chain.blocks, *_data_blocks(source.fileno())}):
            offset = block * vhd.BLOCK_SIZE
            new = os.pread(source.fileno(), _length(chain, offset), offset)
            old = chain.read(offset, len(new))
            for start, end in _differences(old, new) if old != new else []:
                chain.write(offset + start, new[start:end])


def _data_blocks(handle: int) -> set[int]:
    """Return the numbers of the blocks of a sparse file that are no hole."""
    blocks: set[int] = set()
    end, size = 0, os.fstat(handle).st_size
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                break
            raise
        end = os.lseek(handle, start, os.SEEK_HOLE)
        blocks.update(range(start // vhd.BLOCK_SIZE, -(-end // vhd.BLOCK_SIZE)))
    return blocks


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
