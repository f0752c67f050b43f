# SPDX-License-Identifier: Apache-2.0
"""One partition on a disk, and a file system in it.

The disk is open already (:func:`plugged_disk.writable`): it is one of dom0's VBDs.
"""
import collections
import contextlib
import fcntl
import os
import re
import struct
import time

from xenapi_dom0 import commands, failures, loop_device

SECTOR = 512
MOST_SECTORS = 2 ** 32 - 1  # what the table can say
SFDISK_TIMEOUT = 120
LOCK_PATIENCE = 30  # seconds; udev looks at a disk for a moment
MKFS_TIMEOUT = 3600  # 2000 GiB of ext3 on a slow SR
# Versions that take a start for cylinders, or refuse a disk without geometry, unless
# they are forced (util-linux of XenServer 7 and 8).
_FORCED = ((2, 23), (2, 25))
_LABELLED = (2, 26)
_WIPING = (2, 29)

# start, sectors
Partition = collections.namedtuple("Partition", "start sectors")


@contextlib.contextmanager
def _alone(device):
    """Keep udev away from a disk: it leaves one alone that is locked so.

    The lock is on an opening of its own. A loop device keeps the one that it was made
    of, with its locks, and outlives a call that is killed before it is told to go.

    :raises Failure: BUSY, somebody else keeps the disk locked
    """
    loop_device.clear_left_overs(device)
    own = os.open("/proc/self/fd/%d" % device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise failures.Failure(failures.BUSY, "the disk") from exc
            time.sleep(0.05)
        yield
    finally:
        os.close(own)


def make(path, device, start):
    """Write a table with one partition, from sector ``start`` to the disk's end."""
    size = os.lseek(device, 0, os.SEEK_END) // SECTOR
    if not start < min(size, MOST_SECTORS):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "partition_start", "is behind the disk's end"
        )
    version = _sfdisk_version()
    argv = ["sfdisk", "-uS"]
    if _FORCED[0] <= version <= _FORCED[1]:
        argv.append("--force")
    elif version >= _LABELLED:
        # Else a disk that has a GPT keeps that kind of table.
        argv += ["--label", "dos"]
    if version >= _WIPING:
        argv += ["--wipe", "always"]
    with _alone(device):
        commands.run(
            argv + [path], timeout=SFDISK_TIMEOUT,
            data=("%d,,83\n" % start).encode("ascii"),
        )
        os.fsync(device)
    made = read(device, 1)
    if made.start != start:
        raise failures.Failure(
            failures.COMMAND_FAILED, "sfdisk",
            "the partition begins at sector %d" % made.start
        )


def _sfdisk_version():
    said = commands.run(["sfdisk", "--version"]).out
    match = re.search(r"(\d{1,4})\.(\d{1,4})", said)
    if match is None:
        raise failures.Failure(
            failures.NOT_SUPPORTED, "partition a disk", "sfdisk tells no version"
        )
    return int(match.group(1)), int(match.group(2))


def read(device, number):
    """Return the Partition ``number``, 1 to 4, of a disk's table.

    :raises Failure: NOT_FOUND
    """
    sector = os.pread(device, SECTOR, 0)
    if len(sector) != SECTOR or sector[510:] != b"\x55\xaa":
        raise failures.Failure(failures.NOT_FOUND, "a partition table")
    entry = sector[446 + 16 * (number - 1):][:16]
    start, sectors = struct.unpack_from("<II", entry, 8)
    size = os.lseek(device, 0, os.SEEK_END) // SECTOR
    # 0xee: the table is a GPT, of which this one only warns. 5, 0xf, 0x85: extended.
    if entry[4] in (0, 0x05, 0x0f, 0x85, 0xee) or not sectors:
        raise failures.Failure(failures.NOT_FOUND, "partition %d" % number)
    if start == 0 or start + sectors > size:
        raise failures.Failure(
            failures.NOT_FOUND, "partition %d within the disk" % number
        )
    return Partition(start, sectors)


def make_file_system(device, number, kind, label):
    """Put a file system into partition ``number``.

    :param kind: ``ext3`` or ``swap``
    :param label: of an ext3 file system, or None
    """
    where = read(device, number)
    argv = ["mkswap", "-f"]
    if kind == "ext3":
        argv = ["mkfs.ext3", "-F", "-q"]
        if label is not None:
            argv += ["-L", label]
    offset, size = where.start * SECTOR, where.sectors * SECTOR
    with _alone(device), loop_device.part(device, offset, size) as path:
        commands.run(argv + [path], timeout=MKFS_TIMEOUT)
