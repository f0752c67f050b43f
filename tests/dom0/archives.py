# SPDX-License-Identifier: Apache-2.0
"""Images as tests need them: good archives as tar writes them, and evil ones."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable

Member = tuple[tarfile.TarInfo, bytes]


def regular(name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def special(name: str, kind: bytes, linkname: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = linkname
    return info, b""


def tar(members: Iterable[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def image(disks: Iterable[object], prefix: str = "./", compress: bool = True) -> bytes:
    """Return an image as a snapshot writes it: ``./``, ``./0.vhd``, ..."""
    members = [special("./", tarfile.DIRTYPE)] if prefix else []
    members += [
        regular(f"{prefix}{number}.vhd", bytes(disk))
        for number, disk in enumerate(disks)
    ]
    return pack(tar(members), compress)


def named(disks: dict[str, object]) -> bytes:
    """Return a gzipped image whose members have the given names."""
    return pack(tar(regular(name, bytes(disk)) for name, disk in disks.items()))


def pack(data: bytes, compress: bool = True) -> bytes:
    return gzip.compress(data, 1) if compress else data
