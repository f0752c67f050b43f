# SPDX-License-Identifier: Apache-2.0
"""Put another set of our plugins into the host's folder of plugins, in one step.

The folder is the host's: others have plugins in it. So a folder beside it is filled,
with hard links to what is not ours and with our new files, and then the two change
places by one system call. Whoever kills us at any moment leaves the old set or the new
one, and a folder beside that the next call removes.
"""
import contextlib
import ctypes
import errno
import os
import platform
import shutil
import stat
import tempfile

from xenapi_dom0 import failures

_BESIDE = ".plugins.xenapi-driver."

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}  # numbers of the system call
_LIBC = ctypes.CDLL(None, use_errno=True)


def replace(folder, files, unwanted):
    """Make the folder hold our ``files``; what else is in it stays as it is.

    :param folder: path of the plugins' folder, which exists
    :param files: dict of path below the folder to (content, mode)
    :param unwanted: names in the folder that were ours and go
    :raises Failure: COMMAND_FAILED, NO_SPACE; nothing was changed
    """
    parent = os.path.dirname(folder)
    tops = {path.split("/")[0] for path in files}
    without = tops.union(unwanted)
    try:
        beside = tempfile.mkdtemp(prefix=_BESIDE, dir=parent)
        # Links instead of copies: a plugin of others keeps its inode.
        _link(folder, beside, without)
        _fill(beside, files)
        shutil.copystat(folder, beside)
        found = os.stat(folder)
        os.chown(beside, found.st_uid, found.st_gid)
        _sync(beside)
        _exchange(beside, folder)
        _sync(parent)
        # What somebody put into the old folder while the new one was filled.
        _link(beside, folder, without)
    except OSError as exc:
        raise failures.from_os_error(exc, "replace the plugins", folder) from exc
    finally:
        sweep(parent)


def sweep(parent):
    """Remove the folders that a killed call left beside the plugins' folder."""
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if name.startswith(_BESIDE) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)


def _link(source, target, without):
    """Link the files of a folder into another one; what is there already stays."""
    for name in os.listdir(source):
        if name in without:
            continue
        old, new = os.path.join(source, name), os.path.join(target, name)
        if stat.S_ISDIR(os.lstat(old).st_mode):
            with contextlib.suppress(FileExistsError):
                os.mkdir(new)
            _link(old, new, ())
            shutil.copystat(old, new)
            found = os.stat(old)
            os.chown(new, found.st_uid, found.st_gid)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(old, new, follow_symlinks=False)


def _fill(folder, files):
    for path in sorted(files):
        content, mode = files[path]
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        write(target, content, mode)


def write(path, content, mode):
    """Write a new file, to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder):
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one, other):
    """Let two paths change places in one step."""
    number = _RENAMEAT2.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    done = _LIBC.syscall(
        number, _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other),
        _RENAME_EXCHANGE,
    )
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
