# SPDX-License-Identifier: Apache-2.0
"""Chains of VHDs that wait in ``/images`` of this host, each in a folder of its own.

``/images/instance<label>/<number>.vhd``, 0 for the leaf. The label is the server's
UUID for its root disk, ``<UUID>_ephemeral_<n>`` for its n-th ephemeral disk, as hosts
of older releases send them too.
"""
import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile

from xenapi_dom0 import arguments, chain, failures, paths, staging

IMAGES = "/images"
FOLDER = "instance"  # begins each folder's name, the label follows
# What is being removed: renamed first, so that nobody imports a part of it.
DOOMED = ".xenapi-removing."
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LABEL = re.compile("(%s)(?:_ephemeral_[1-9][0-9]{0,2})?\\Z" % _UUID)


def label(request, name):
    """Return the label of a chain."""
    value = arguments.text(request, name, 64)
    if _LABEL.match(value) is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "is no UUID or <UUID>_ephemeral_<number>"
        )
    return value


def folder_name(chain_label):
    """Return the name of a chain's folder in ``/images``."""
    return FOLDER + chain_label


def is_label(text):
    """Say whether ``text`` is a label of a chain."""
    return _LABEL.match(text) is not None


def images():
    """Return the real path of ``/images``, which may be a link.

    :raises Failure: NOT_FOUND
    """
    path = os.path.realpath(paths.host_path(IMAGES))
    if not os.path.isdir(path):
        raise failures.Failure(
            failures.NOT_FOUND,
            "the folder /images; make it a link to a folder on the SR",
        )
    return path


def take_in(chain_label, sr_path, uuid_stack, disks):
    """Put a chain that arrived into the SR, then remove its folder.

    The files keep their names in ``/images`` until all is in place, so that a call
    that was killed can be repeated.

    :param uuid_stack: names to give, the last one to the leaf
    :param disks: how many there must be, or None
    :returns: list of (uuid, Vhd), leaf first
    :raises Failure: IMAGE_CORRUPT, NOT_FOUND, NOT_SUPPORTED
    """
    source = os.path.join(images(), folder_name(chain_label))
    erase_doomed(images())
    staging.sweep(sr_path)
    names = _vhds(source)
    if names is None:
        done = chain.placed(sr_path, uuid_stack)
        if done:
            return done
        raise failures.Failure(
            failures.NOT_FOUND, "%s/%s" % (IMAGES, folder_name(chain_label))
        )
    if disks is not None and len(names) != disks:
        raise failures.Failure(
            failures.IMAGE_CORRUPT,
            "%d disks arrived, not %d; discard them and send the whole chain again"
            % (len(names), disks),
        )
    done = _under_other_names(source, names, sr_path)
    if not done:
        done = _imported(source, names, sr_path, uuid_stack)
    remove(folder_name(chain_label))
    return done


def _vhds(folder):
    """Return the names of the VHDs in a folder, None where there is no folder."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise failures.Failure(
                failures.NOT_PERMITTED, "import", "a link instead of a folder"
            )
        names = os.listdir(folder)
    except FileNotFoundError:
        return None
    # rsync's own files begin with a dot.
    found = {name for name in names if name.endswith(".vhd") and name[0] != "."}
    expected = ["%d.vhd" % number for number in range(max(1, len(found)))]
    for number, name in enumerate(expected):
        if name not in found:
            raise failures.Failure(
                failures.IMAGE_CORRUPT,
                "of the chain that arrived, number %d is missing" % number,
            )
    return expected


def _imported(source, names, sr_path, uuid_stack):
    with staging.folder(sr_path) as folder:
        members = {}
        for name in names:
            members[name] = os.path.join(folder, name)
            link(os.path.join(source, name), members[name])
        disks = chain.assemble(members, folder, uuid_stack, ours=True)
        for _uuid, disk in disks:
            _sync(disk.path)
        staging.place(folder, sr_path, [uuid for uuid, _disk in disks])
    return disks


def _under_other_names(source, names, sr_path):
    """Return the chain that a killed call had put into the SR, else an empty list.

    Its files are the very ones in ``source``; to import them again would change
    disks that may be in use.
    """
    wanted = [os.lstat(os.path.join(source, name)) for name in names]
    if all(found.st_nlink == 1 for found in wanted):
        return []
    there = {}
    for name in os.listdir(sr_path):
        uuid = name[:-len(".vhd")]
        if name.endswith(".vhd") and paths.UUID.match(uuid):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(sr_path, name))
                there[found.st_dev, found.st_ino] = uuid
    uuids = [there.get((found.st_dev, found.st_ino)) for found in wanted]
    if None in uuids:
        raise failures.Failure(
            failures.NOT_PERMITTED, "import",
            "a file that has another name elsewhere, and may be in use there",
        )
    return chain.placed(sr_path, uuids[::-1])


def link(source, target):
    """Give the file ``source`` the name ``target`` too, inside the SR.

    :raises Failure: NOT_FOUND; NOT_SUPPORTED, where the two are on different file
        systems
    """
    try:
        os.link(source, target, follow_symlinks=False)
        regular = stat.S_ISREG(os.lstat(target).st_mode)
    except FileNotFoundError:
        raise failures.Failure(
            failures.NOT_FOUND, "the file " + os.path.basename(source)
        ) from None
    except OSError as exc:
        raise _no_link(exc, source, target) from exc
    if not regular:
        raise failures.Failure(
            failures.NOT_PERMITTED, os.path.basename(source), "it is no regular file"
        )


def _no_link(exc, source, target):
    if exc.errno == errno.EXDEV:
        return failures.Failure(
            failures.NOT_SUPPORTED, "move from /images into the SR",
            "they are on different file systems; make /images a link to a folder on "
            "the SR: ln -s /run/sr-mount/<SR uuid>/os-images /images",
        )
    if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
        return failures.Failure(
            failures.NOT_SUPPORTED, "link a file of the SR",
            "its file system has no hard links",
        )
    return failures.from_os_error(
        exc, "link " + os.path.basename(source), os.path.dirname(target)
    )


def names_of_server(chain_label):
    """Return the folders in ``/images`` of a label; of a UUID, its ephemerals' too."""
    own = folder_name(chain_label)
    try:
        there = os.listdir(images())
    except failures.Failure:
        return []
    return sorted(
        name for name in there
        if name == own or (
            name.startswith(own + "_ephemeral_") and is_label(name[len(FOLDER):])
        )
    )


def remove(name):
    """Remove a folder of ``/images``; one that is not there is fine."""
    folder = images()
    path = os.path.join(folder, name)
    try:
        if os.path.lexists(path):
            # Over an empty folder; a link does not go there, and is refused.
            os.rename(path, tempfile.mkdtemp(prefix=DOOMED, dir=folder))
    except OSError as exc:
        raise failures.from_os_error(exc, "remove " + name, folder) from exc
    finally:
        erase_doomed(folder)


def erase_doomed(folder):
    """Delete what a call has begun to remove from ``/images``, this one or another."""
    for name in os.listdir(folder):
        if name.startswith(DOOMED):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
