# SPDX-License-Identifier: Apache-2.0
"""Run what Neutron's agent asks for in dom0, as far as the filters allow it.

The filter file beside this module comes with the plugins; an operator's own ones, in
:data:`SITE_FOLDER`, add to it. A file there that somebody else than root can write to,
or that has a line that is none, counts as not there, and that is told and logged.
"""
import base64
import binascii
import os
import stat
import zlib

from xenapi_dom0 import arguments, commands, failures, paths, word_filter
from xenapi_dom0.serve import LOG

OURS = os.path.dirname(os.path.abspath(__file__))
SITE_FOLDER = "/etc/xenapi-dom0/netwrap.d"
SUFFIX = ".filters"

MAX_COMMANDS = 512  # in one call
MAX_INPUT = 2 * 1024 * 1024  # bytes, unpacked
MAX_FILE = 256 * 1024  # bytes of a filter file
TIMEOUT = 30  # seconds
LONGEST_TIMEOUT = 300
# A program may end as it likes; only a signal of ours means a time-out.
_ANY_CODE = range(-64, 256)


def shipped_filter(name):
    """Return the filter ``name`` that came with the plugins, and nothing else."""
    found = word_filter.Filter()
    for part in ("iptables", name):
        with open(os.path.join(OURS, part + SUFFIX), encoding="ascii") as file:
            found.read(file.read())
    return found


def site_filter():
    """Return the filter of this host, and what is wrong with its operator's files."""
    found = shipped_filter("netwrap")
    problems = []
    folder = paths.host_path(SITE_FOLDER)
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except OSError:
        names = []
    if names and not _roots_own(os.stat(folder)):
        problems.append("%s: somebody else than root may write here" % SITE_FOLDER)
        names = []
    for name in names:
        try:
            found.read(_text(os.path.join(folder, name)))
        except (OSError, ValueError, word_filter.FilterError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            problems.append("%s/%s: %s" % (SITE_FOLDER, name, reason))
    for problem in problems:
        LOG.warning("Not used: %s", problem)
    return found, problems


def _text(path):
    """Return the text of a filter file that only root can have written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _roots_own(found):
            raise word_filter.FilterError("is no file that only root can write to")
        if found.st_size > MAX_FILE:
            raise word_filter.FilterError("is too long")
        return file.read(MAX_FILE).decode("ascii")


def _roots_own(found):
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def words(request, name):
    """Return the argument ``name``: a command's program and arguments."""
    argv = arguments.listed(request, name, word_filter.MAX_WORDS)
    if not argv or not all(isinstance(word, str) for word in argv):
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "is no list of one or more texts"
        )
    return argv


def fed(request, name, packed):
    """Return the text that a command is fed; None: nothing.

    :param name: the argument that holds it as it is
    :param packed: the argument that holds it packed by zlib, in base64, as XAPI lets
        all arguments of a call be no longer than 128 KiB
    """
    if request.get(packed) is None:
        if request.get(name) in (None, ""):
            return None
        text = request[name]
        if not isinstance(text, str) or len(text) > MAX_INPUT:
            raise failures.Failure(
                failures.BAD_ARGUMENT, name, "is no text or too long"
            )
        return text
    if request.get(name) is not None or not isinstance(request[packed], str):
        raise failures.Failure(
            failures.BAD_ARGUMENT, packed, "is no text or one input too many"
        )
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(
            base64.b64decode(request[packed], validate=True), MAX_INPUT
        ).decode("ascii")
    except (binascii.Error, ValueError, zlib.error):
        text = None
    if text is None or not unpacker.eof:
        raise failures.Failure(
            failures.BAD_ARGUMENT, packed,
            "is no ASCII text of up to %d bytes, packed by zlib, in base64" % MAX_INPUT,
        )
    return text


def run(argv, text, timeout):
    """Run a command that the filters allow; return how it ended and what it said."""
    data = None if text is None else text.encode("ascii")
    output = commands.run(argv, timeout=timeout, data=data, accept=_ANY_CODE)
    return {"returncode": output.code, "out": output.out, "err": output.err}
