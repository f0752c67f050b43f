# SPDX-License-Identifier: Apache-2.0
"""A part of a block device as a device of its own, for the length of a ``with``.

A loop device at the partition's offset needs neither device-mapper nor the kernel's own
view of the partition table, which is old while udev or anybody looks at the disk. It is
set to go with its last user: one that is killed leaves no mapping that would hold the
disk in dom0.
"""
import contextlib
import errno
import fcntl
import glob
import os
import struct
import time

from xenapi_dom0 import failures
from xenapi_dom0.serve import LOG

# linux/loop.h
_SET_FD, _CLR_FD, _SET_STATUS, _GET_STATUS = 0x4C00, 0x4C01, 0x4C04, 0x4C05
_GET_FREE = 0x4C82
_AUTOCLEAR = 4
# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, two of
# encryption, flags; two names and a key; two words.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONTROL = "/dev/loop-control"
_TRIES = 64
_PATIENCE = 5.0  # seconds


@contextlib.contextmanager
def part(device, offset, size):
    """Give the path of a loop device that is ``size`` bytes of a device.

    :param device: descriptor of the device, open for reading and writing
    """
    # Loop devices are the kernel's, not a root's: no path of the host's is meant here.
    clear_left_overs(device)
    try:
        path, loop = _attached(device, offset, size)
    except OSError as exc:
        raise failures.from_os_error(exc, "make a loop device", _CONTROL) from exc
    try:
        yield path
        os.fsync(loop)
    except OSError as exc:
        raise failures.from_os_error(exc, "write the device", path) from exc
    finally:
        with contextlib.suppress(OSError):
            fcntl.ioctl(loop, _CLR_FD)
        os.close(loop)
        _wait_until_free(path, device)


def _attached(device, offset, size):
    """Return (path, descriptor) of a loop device that goes with its last user."""
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(_TRIES):
            path = "/dev/loop%d" % fcntl.ioctl(control, _GET_FREE)
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _set(loop, device, offset, size):
                    return path, loop
            except BaseException:
                os.close(loop)
                raise
            os.close(loop)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device was free")


def _set(loop, device, offset, size):
    """Put a loop device onto the part; False: somebody else took it first."""
    try:
        fcntl.ioctl(loop, _SET_FD, device)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return False
        raise
    info = _INFO.pack(0, 0, 0, offset, size, 0, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0)
    try:
        fcntl.ioctl(loop, _SET_STATUS, info)
    except OSError as exc:
        fcntl.ioctl(loop, _CLR_FD)
        # Old pages of the device were still being written out.
        if exc.errno == errno.EAGAIN:
            return False
        raise
    return True


def _backing(path):
    """Return the device number that a loop device stands on, or None."""
    try:
        loop = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = bytearray(_INFO.size)
        fcntl.ioctl(loop, _GET_STATUS, info)
    except OSError:
        return None  # it stands on nothing
    finally:
        os.close(loop)
    number = _INFO.unpack(bytes(info))[2]
    return (number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00)


def _stands_on(path, device):
    number = os.fstat(device).st_rdev
    return _backing(path) == (os.major(number), os.minor(number))


def clear_left_overs(device):
    """Free what a call left that was killed between two steps of :func:`_set`.

    The caller holds our lock of the disk: no other call of ours is at work on it.

    :raises Failure: NOT_PERMITTED, somebody has a part of the device mounted
    """
    for about in glob.glob("/sys/block/loop*/loop"):
        path = "/dev/" + about.split("/")[3]
        if not _stands_on(path, device):
            continue
        try:
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
        except OSError as exc:
            raise failures.Failure(
                failures.NOT_PERMITTED, "write to the device",
                "a part of it is mounted or in use as " + path
            ) from exc
        LOG.warning("Freeing %s, which a killed call left.", path)
        with contextlib.suppress(OSError):
            fcntl.ioctl(loop, _CLR_FD)
        os.close(loop)


def _wait_until_free(path, device):
    """Wait for the kernel to let go of the disk, so that it can be unplugged."""
    deadline = time.monotonic() + _PATIENCE
    while _stands_on(path, device):
        if time.monotonic() > deadline:
            LOG.warning("%s is still in use by somebody.", path)
            return
        time.sleep(0.01)
