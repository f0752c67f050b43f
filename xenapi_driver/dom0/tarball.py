# SPDX-License-Identifier: Apache-2.0
"""The tar archive of the scripts: laid over a host by ``tar -x -C /``."""

from __future__ import annotations

import gzip
import io
import pathlib
import tarfile
from collections.abc import Sequence

from xenapi_driver.dom0.tree import LIBRARY, Entry

NAME = "xenapi-dom0-plugins"


def content(laid: Sequence[Entry], epoch: int) -> bytes:
    """Return the archive, uncompressed.

    Everything belongs to root. Of folders only those are named that are ours alone:
    tar would give the others, such as ``etc``, our mode and time.

    :param epoch: time of every file, seconds since 1970
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(_member(LIBRARY, 0o755, epoch, tarfile.DIRTYPE))
        for entry in laid:
            member = _member(entry.path, entry.mode, epoch, tarfile.REGTYPE)
            member.size = len(entry.content)
            archive.addfile(member, io.BytesIO(entry.content))
    return buffer.getvalue()


def write(
    laid: Sequence[Entry], version: str, epoch: int, output: pathlib.Path
) -> pathlib.Path:
    """Write ``xenapi-dom0-plugins-VERSION.tar.gz`` and return its path."""
    path = output / f"{NAME}-{version}.tar.gz"
    path.write_bytes(gzip.compress(content(laid, epoch), mtime=epoch))
    return path


def _member(path: str, mode: int, epoch: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type = kind
    member.mode = mode
    member.mtime = epoch
    member.uname = member.gname = "root"
    return member
