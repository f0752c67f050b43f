# SPDX-License-Identifier: Apache-2.0
"""Read a VHD chain as a guest would, by following the names in the files.

Independent of the plugins' code; ``libvhdi_reads`` is independent of this project.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.dom0.vhd_files import BLOCK

LIBVHDI = """
import hashlib, os, pyvhdi, sys
kept = []  # a parent is not kept alive by its child
def opened(path):
    disk = pyvhdi.file()
    kept.append(disk)
    disk.open(path)
    name = disk.get_parent_filename()
    if name:
        name = name.replace("\\\\", "/").split("/")[-1]
        disk.set_parent(opened(os.path.join(os.path.dirname(path), name)))
    return disk
disk = opened(sys.argv[1])
digest = hashlib.sha256()
left = disk.get_media_size()
while left:
    data = disk.read_buffer(min(left, 1 << 20))
    digest.update(data)
    left -= len(data)
print(digest.hexdigest())
"""


def locator_names(path: Path) -> set[str]:
    """Return the parent names that the locators and the header of a file hold."""
    data = path.read_bytes()
    header = data[512:1536]
    names = {header[64:576].decode("utf-16-be").rstrip("\0")}
    for at in range(576, 576 + 8 * 24, 24):
        code, _space, length, _reserved, offset = struct.unpack_from(
            ">4sIIIQ", header, at
        )
        text = data[offset:offset + length]
        if code == b"MacX":
            names.add(text.decode().replace("file://./", ""))
        elif code in (b"W2ku", b"W2ru"):
            names.add(text.decode("utf-16-le").replace(".\\", ""))
    return names - {""}


def chain_files(leaf: Path) -> list[Path]:
    """Return the files of a chain, leaf first, checking each parent's UUID."""
    files = [leaf]
    while True:
        names = locator_names(files[-1])
        if not names:
            return files
        assert len(names) == 1, names
        parent = leaf.parent / names.pop()
        wanted = files[-1].read_bytes()[512 + 40:512 + 56]
        assert wanted == parent.read_bytes()[68:84]
        files.append(parent)


def first_bytes(leaf: Path) -> list[int | None]:
    """Return the fill of block 0 of each file of the chain, None without a block."""
    fills: list[int | None] = []
    for path in chain_files(leaf):
        data = path.read_bytes()
        (entry,) = struct.unpack_from(">I", data, 1536)
        block = data[entry * 512 + 512:entry * 512 + 512 + BLOCK]
        fills.append(None if entry == 0xFFFFFFFF else block[0])
    return fills


def hidden(path: Path) -> bool:
    return path.read_bytes()[85] == 1


def libvhdi_python() -> str | None:
    """Return the Python that has libvhdi's bindings, None where none has."""
    for candidate in ("/usr/bin/python3", shutil.which("python3")):
        if candidate and not subprocess.run(
            [candidate, "-c", "import pyvhdi"], capture_output=True
        ).returncode:
            return candidate
    return None


def assert_reads_as(leaf: Path, sha256: str) -> None:
    """Let libvhdi, which is none of ours, read the chain; skip where it is missing."""
    python = libvhdi_python()
    if python is None:
        assert os.environ.get("REQUIRE_ROOT_PARTS") != "1", "NO libvhdi HERE"
        pytest.skip("NO libvhdi HERE: no independent reader of VHD chains")
    assert libvhdi_sha256(python, leaf) == sha256


def libvhdi_sha256(python: str, leaf: Path) -> str:
    """Return the SHA-256 of a chain's whole content as libvhdi reads it."""
    said = subprocess.run(
        [python, "-c", LIBVHDI, str(leaf)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()
