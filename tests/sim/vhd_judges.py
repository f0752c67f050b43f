# SPDX-License-Identifier: Apache-2.0
"""Readers of VHD that we did not write: qemu-img and libvhdi."""

from __future__ import annotations

import json
import subprocess
import unittest
from pathlib import Path

# Debian's interpreter: its packages' modules are not seen by others.
_SYSTEM_PYTHON = "/usr/bin/python3"
_READ_CHAIN = """
import hashlib, sys, pyvhdi
links = []
for path in sys.argv[1:]:
    link = pyvhdi.file()
    link.open(path)
    if links:
        links[-1].set_parent(link)
    links.append(link)
disk, digest = links[0], hashlib.sha256()
left = disk.get_media_size()
while left:
    data = disk.read_buffer(min(left, 1 << 20))
    digest.update(data)
    left -= len(data)
print(digest.hexdigest())
"""


def _run(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise unittest.SkipTest(f"missing: {command[0]}") from None
    if "No module named 'pyvhdi'" in answer.stderr:
        raise unittest.SkipTest("missing: python3-libvhdi")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def qemu_size(path: Path) -> int:
    """Return the virtual size that qemu sees."""
    info = json.loads(_run("qemu-img", "info", "--output=json", "-fvpc", str(path)))
    return info["virtual-size"]


def qemu_content(path: Path, raw: Path) -> bytes:
    """Return the content that qemu sees; only right for a disk without parent."""
    _run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(path), str(raw))
    return raw.read_bytes()


def convert_by_qemu(raw: Path, path: Path, options: str) -> None:
    """Let qemu make a VHD of raw content."""
    _run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        options,
        str(raw),
        str(path),
    )


def libvhdi_digest(*links: Path) -> str:
    """Return the SHA-256 of the content that libvhdi reads; leaf named first."""
    paths = [str(link) for link in links]
    return _run(_SYSTEM_PYTHON, "-c", _READ_CHAIN, *paths).strip()


def libvhdi_info(path: Path) -> str:
    return _run("vhdiinfo", str(path))
