# SPDX-License-Identifier: Apache-2.0
"""Where things are in dom0, and which places a request may name.

``XENAPI_DOM0_ROOT`` puts a folder in front of every host path, so that a test can
run the real plugins in a scratch root. It opens nothing to a caller: xapi starts
plugins with an environment that it fixes itself (PATH only), and whoever can set
another one for a process of root in dom0 needs no plugin.
"""
import os
import re

from xenapi_dom0 import failures

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
FILE_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,199}\Z")
SR_MOUNTS = "/run/sr-mount"
# Old hosts and configurations write it with /var: the same folder by a link.
_SR_PATH = re.compile(r"(?:/var)?/run/sr-mount/([^/]+)/?\Z")


def host_path(path):
    """Return where the absolute host path ``path`` is for this process."""
    root = os.environ.get("XENAPI_DOM0_ROOT", "").rstrip("/")
    return root + path


def sr_directory(path):
    """Return the real directory of the SR that is mounted at ``path``.

    :param path: ``/run/sr-mount/<SR uuid>`` as the host names it
    :raises Failure: BAD_ARGUMENT, also where a link leads out of ``/run/sr-mount``
    """
    match = _SR_PATH.match(path)
    if match is None or UUID.match(match.group(1)) is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "sr_path", "is no " + SR_MOUNTS + "/<SR uuid>"
        )
    mounts = os.path.realpath(host_path(SR_MOUNTS))
    # Some drivers (SMB, CephFS) make the SR's path a link to a folder of a mount
    # beside it, so links are followed, but only inside of the mounts' folder.
    real = os.path.realpath(os.path.join(mounts, match.group(1)))
    if not real.startswith(mounts + "/"):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "sr_path", "leads out of " + SR_MOUNTS
        )
    if not os.path.isdir(real):
        raise failures.Failure(failures.BAD_ARGUMENT, "sr_path", "is not mounted here")
    return real


def vhd_in_sr(sr_path, uuid):
    """Return the path at which a file-based SR keeps the VDI ``uuid``."""
    return os.path.join(sr_path, uuid + ".vhd")


def is_file(path):
    """Say whether there is a file at a path of somebody else's, whatever it holds.

    Python 3.6 raises an exception for what cannot be a path: a NUL, and in the locale
    in which xapi starts plugins any character beyond ASCII.
    """
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def inside(folder, name):
    """Return the path of ``name`` directly in ``folder``; nothing there is followed.

    :param folder: absolute, as this process sees it
    :raises Failure: BAD_ARGUMENT, where it is no plain name
    """
    if not FILE_NAME.match(name) or name in (".", ".."):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "file name", "is no plain name of a file"
        )
    return os.path.join(folder, name)
