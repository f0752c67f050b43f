# SPDX-License-Identifier: Apache-2.0
"""A VHD image made on the spot, and an independent look at what became of it.

The image is an ext4 file system with one known file, as XenServer's images are
kept in Glance: a gzipped tar whose member ``0.vhd`` is a dynamic VHD. It is
written by e2fsprogs and qemu-img and read back by libvhdi, which follows the
chain of a differencing disk, and debugfs: none of our own VHD code takes part.
"""

from __future__ import annotations

import secrets
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from demo.failure import DemoFailure
from demo.messaging import program

MIB = 1 << 20
SIZE = 48 * MIB
KNOWN_FILE = "known-content.txt"
READER = Path(__file__).with_name("vhd_reader.py")


@dataclass(frozen=True)
class Image:
    """An image file and what a reader must find in its file system."""

    path: Path
    content: str


def make(folder: Path) -> Image:
    """Make an image whose content no other run's image has."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    # Large enough to need many VHD blocks, random enough to be this one.
    lines = [f"line {i} {secrets.token_hex(32)}\n" for i in range(20_000)]
    content = "".join(lines)
    (tree / KNOWN_FILE).write_text(content)
    raw, vhd = folder / "image.raw", folder / "0.vhd"
    size = f"{SIZE >> 10}k"
    mke2fs = program("mke2fs", "e2fsprogs")
    run([mke2fs, "-q", "-t", "ext4", "-d", str(tree), str(raw), size])
    qemu = program("qemu-img", "qemu-utils")
    shape = "subformat=dynamic,force_size=on"
    run([qemu, "convert", "-f", "raw", "-O", "vpc", "-o", shape, str(raw), str(vhd)])
    packed = folder / "image.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
        archive.add(vhd, arcname="0.vhd")
    return Image(packed, content)


def read_back(disk: Path, folder: Path) -> str:
    """The known file in a disk's file system, read through the whole VHD chain.

    :param disk: a VHD in a storage repository; its parents are looked for
        beside it, by the identifiers in their footers
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / f"{disk.stem}.raw"
    # Debian packages libvhdi for its own Python only.
    run(["/usr/bin/python3", str(READER), str(disk), str(raw)])
    try:
        debugfs = program("debugfs", "e2fsprogs")
        return run([debugfs, "-R", f"cat /{KNOWN_FILE}", str(raw)])
    finally:
        raw.unlink()


def run(argv: list[str]) -> str:
    """Run a tool; its output.

    :raises DemoFailure: it failed; with what it said
    """
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise DemoFailure(f"{Path(argv[0]).name} to succeed", words)
    return done.stdout
