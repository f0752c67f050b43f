# SPDX-License-Identifier: Apache-2.0
"""Every kind of image, made by the tools that people make them with.

Each maker is given a folder and a raw disk, and returns what to upload and what a
reader must find on the disk of a server built from it.
"""

from __future__ import annotations

import gzip
import random
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from demo.image import READER, run
from demo.layout import CHECKOUT

MIB = 1 << 20
SIZE = 16 * MIB
SECTOR = 512
# Where an AMI's partition begins: 63 sectors, as the geometry of old disks has it.
AMI_OFFSET = 63 * SECTOR
CHAIN = CHECKOUT / "tests" / "data" / "vhd"
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Part:
    """An image that another one boots with: a kernel or a ramdisk."""

    path: Path
    disk_format: str


@dataclass(frozen=True)
class Image:
    """What to upload, and what a server's disk must hold.

    :ivar content: raw; the root disk begins with it (at ``offset``), and holds zeros
        behind it
    :ivar parts: property to the image whose id it takes, such as ``kernel_id``
    :ivar cd: the content is that of a CD, and the root disk is blank
    """

    path: Path
    disk_format: str
    container_format: str
    content: Path
    offset: int = 0
    cd: bool = False
    properties: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)


def raw_disk(folder: Path) -> Path:
    """A raw disk with an ext4 file system that no other run's disk has."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    (tree / "random").write_bytes(random.randbytes(4 * MIB))
    (tree / "words").write_text("the same line again\n" * 100_000)
    raw = folder / "source.raw"
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(raw), f"{SIZE >> 10}k"])
    # A disk whose last sector is lost would else go unnoticed.
    with raw.open("r+b") as disk:
        disk.seek(SIZE - SECTOR)
        disk.write(random.randbytes(SECTOR))
    return raw


def to_vhd(raw: Path, vhd: Path) -> None:
    """A dynamic VHD of exactly the raw disk's size."""
    shape = "subformat=dynamic,force_size=on"
    run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", shape]
        + [str(raw), str(vhd)])  # fmt: skip


def pack(folder: Path, members: dict[str, Path], top: bool = False) -> Path:
    """A gzipped tar.

    :param top: with the folder itself as first member, as a host packs it
    """
    packed = folder / "image.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
        if top:
            archive.add(folder, arcname="./", recursive=False)
        for name, path in members.items():
            archive.add(path, arcname=name)
    return packed


def vhd(folder: Path, raw: Path) -> Image:
    made = folder / "0.vhd"
    to_vhd(raw, made)
    return Image(pack(folder, {"0.vhd": made}), "vhd", "ovf", raw)


def dotted(folder: Path, raw: Path) -> Image:
    """A host's own ``tar`` of its folder: names with ``./``."""
    made = folder / "0.vhd"
    to_vhd(raw, made)
    return Image(pack(folder, {"./0.vhd": made}, top=True), "vhd", "ovf", raw)


def dom0_chain(folder: Path) -> tuple[list[Path], Path]:
    """Three VHDs that a real dom0 made, leaf first, and what they hold together."""
    files = []
    for name in ("leaf", "mid", "base"):
        made = folder / f"{name}.vhd"
        made.write_bytes(gzip.decompress((CHAIN / f"{name}.vhd.gz").read_bytes()))
        files.append(made)
    content = folder / "content.raw"
    run([SYSTEM_PYTHON, str(READER), str(files[0]), str(content)])
    return files, content


def chain(folder: Path, _raw: Path) -> Image:
    files, content = dom0_chain(folder)
    members = {f"./{number}.vhd": file for number, file in enumerate(files)}
    return Image(pack(folder, members, top=True), "vhd", "ovf", content)


def old_names(folder: Path, _raw: Path) -> Image:
    """A chain with the members' names of Essex, base first."""
    files, content = dom0_chain(folder)
    names = ("snap.vhd", "image.vhd", "base.vhd")
    members = dict(reversed(list(zip(names, files, strict=True))))
    return Image(pack(folder, members), "vhd", "ovf", content)


def raw(folder: Path, source: Path) -> Image:
    return Image(source, "raw", "bare", source)


def tgz(folder: Path, source: Path) -> Image:
    return Image(pack(folder, {"disk.raw": source}), "raw", "tgz", source)


def qcow2(folder: Path, source: Path) -> Image:
    made = folder / "image.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"]
        + [str(source), str(made)])  # fmt: skip
    return Image(made, "qcow2", "bare", source)


def iso(folder: Path, _source: Path) -> Image:
    """A CD, as an installer's."""
    tree = folder / "cd"
    tree.mkdir()
    (tree / "install.txt").write_text("install me\n" * 10_000)
    made = folder / "cd.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", "INSTALL"]
        + ["-o", str(made), str(tree)])  # fmt: skip
    return Image(made, "iso", "bare", made, cd=True)


def ami(folder: Path, source: Path) -> Image:
    """A partition's content with the kernel and the ramdisk that boot it."""
    parts = {}
    for name, kind in (("kernel", "aki"), ("ramdisk", "ari")):
        path = folder / name
        path.write_bytes(kind.encode() + random.randbytes(100_000))
        parts[f"{name}_id"] = Part(path, kind)
    # Nothing else boots from a kernel in dom0.
    properties = {"vm_mode": "xen"}
    return Image(source, "ami", "ami", source, AMI_OFFSET, False, properties, parts)


MAKERS: dict[str, Callable[[Path, Path], Image]] = {
    "vhd": vhd,
    "dotted": dotted,
    "chain": chain,
    "old-names": old_names,
    "raw": raw,
    "tgz": tgz,
    "qcow2": qcow2,
    "iso": iso,
    "ami": ami,
}


def make(kind: str, folder: Path, source: Path) -> Image:
    """Make an image of a kind in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return MAKERS[kind](folder, source)
