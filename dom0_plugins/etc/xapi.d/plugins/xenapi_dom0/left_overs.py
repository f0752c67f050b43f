# SPDX-License-Identifier: Apache-2.0
"""What calls that were killed, and migrations that nobody ended, left behind."""
import os
import stat
import time

from xenapi_dom0 import arrivals, failures, locks, paths, sr_lock, staging


def find(sr_path, older_than, remove):
    """Return what is left on an SR and in ``/images``; remove it where that is asked.

    :param sr_path: real path of the SR
    :param older_than: seconds for which nothing of a chain in ``/images`` changed; a
        folder of a killed call is left over at any age
    :returns: list of dict: path, bytes, age in seconds, removed (bool), kept (why, or
        None)
    """
    return _staging(sr_path, remove) + _images(older_than, remove)


def _staging(sr_path, remove):
    mount = "%s/%s/" % (paths.SR_MOUNTS, sr_lock.sr_uuid(sr_path))
    dead, others = staging.left_behind(sr_path)
    found = []
    for name in dead + others:
        told = _told(os.path.join(sr_path, name), mount + name)
        if told is not None:
            found.append(told)
            if name in others:
                told["kept"] = "it is another host's; ask there"
    if remove:
        staging.sweep(sr_path)
        for told in found:
            name = os.path.basename(told["path"])
            told["removed"] = not os.path.lexists(os.path.join(sr_path, name))
    return found


def _images(older_than, remove):
    try:
        images = arrivals.images()
    except failures.Failure:
        return []
    found = []
    for name in sorted(os.listdir(images)):
        label = name[len(arrivals.FOLDER):]
        doomed = name.startswith(arrivals.DOOMED)
        if not doomed and not (
            name.startswith(arrivals.FOLDER) and arrivals.is_label(label)
        ):
            continue  # not ours
        told = _told(os.path.join(images, name), "%s/%s" % (arrivals.IMAGES, name))
        if told is None or (not doomed and told["age"] < older_than):
            continue
        found.append(told)
        if remove and doomed:
            arrivals.erase_doomed(images)
            told["removed"] = True
        elif remove:
            _remove(name, label, told)
    return found


def _remove(name, label, told):
    try:
        with locks.held("chain", label, 0):
            arrivals.remove(name)
        told["removed"] = True
    except failures.Failure as exc:
        told["kept"] = " ".join(exc.params)


def _told(path, called):
    """Return size and age of a folder, None for what is no folder."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return None
        size, latest = 0, os.lstat(path).st_mtime
        for folder, _folders, names in os.walk(path):
            for name in names:
                found = os.lstat(os.path.join(folder, name))
                latest = max(latest, found.st_mtime)
                size += found.st_blocks * 512
    except OSError:
        return None  # it goes at this moment
    return {
        "path": called, "bytes": size, "age": max(0, int(time.time() - latest)),
        "removed": False, "kept": None,
    }
