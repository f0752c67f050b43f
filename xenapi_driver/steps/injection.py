# SPDX-License-Identifier: Apache-2.0
"""flat_injected: a key, interfaces and metadata in the root's file system.

debugfs reads and writes the plugged disk as a file: nothing is mounted, and no name in
an image leads out of it.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xenapi_driver.steps import programs
from xenapi_driver.steps.root_disk import NotChanged, checked, partitions

_KINDS = ("ext2", "ext3", "ext4")
PROGRAMS = (
    ("sfdisk", "fdisk"),
    ("blkid", "util-linux"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
)


@dataclass(frozen=True)
class File:
    """A file to be written; root's.

    :ivar path: absolute
    :ivar mode: permissions, of it and (with execution) of folders that are made for it
    :ivar append: keep what is in a file that is there already
    """

    path: str
    content: bytes
    mode: int = 0o644
    append: bool = False


def inject(device: Path, files: Sequence[File], unless: str) -> None:
    """Write files into the first partition's file system.

    :param unless: absolute path of a file: where it is, the guest sees to itself
    :raises NotChanged: another file system, or a damaged one; nothing was changed
    :raises programs.ProgramFailed: a file could not be written
    """
    first = [one for one in partitions(device) if one.number == 1]
    if not first:
        raise NotChanged("it has no partition with the number 1")
    place = checked(device, first[0], _KINDS)
    if _type_of(place, unless):
        return
    for one in files:
        _write(place, one)


def _type_of(place: str, path: str) -> str:
    """Return ``regular``, ``directory`` or another of debugfs's words; "" for none."""
    said = programs.run("debugfs", "-R", f'stat "{path}"', place, bounded=True)
    return said.partition("Type: ")[2].partition(" ")[0]


def _write(place: str, file: File) -> None:
    folder, name = posixpath.split(file.path)
    _make_folder(place, folder, file.mode)
    with tempfile.TemporaryDirectory(prefix="xenapi-driver-") as scratch:
        source, back = Path(scratch) / "new", Path(scratch) / "back"
        known = b""
        if file.append and _type_of(place, file.path) == "regular":
            known = _content(place, file.path, back)
        source.write_bytes(known + file.content)
        # "write" knows no folders but the one that it is in.
        script = [
            f'cd "{folder}"',
            f'rm "{name}"',
            f'write {source} "{name}"',
            f'sif "{name}" mode 0{0o100000 | file.mode:o}',
            f'sif "{name}" uid 0',
            f'sif "{name}" gid 0',
        ]
        _edit(place, script, Path(scratch) / "script")
        # It reports no failure of a command.
        if _content(place, file.path, back) != source.read_bytes():
            reason = f"{file.path} could not be written: is there room?"
            raise programs.ProgramFailed("debugfs", reason)


def _make_folder(place: str, folder: str, mode: int) -> None:
    if _type_of(place, folder) == "directory":
        return
    parent = posixpath.dirname(folder)
    _make_folder(place, parent, mode)
    with tempfile.TemporaryDirectory(prefix="xenapi-driver-") as scratch:
        allowed = 0o40000 | mode | (mode & 0o444) >> 2
        script = [f'mkdir "{folder}"', f'sif "{folder}" mode 0{allowed:o}']
        _edit(place, script, Path(scratch) / "script")
    if _type_of(place, folder) != "directory":
        reason = f"{folder} could not be made: is something else there?"
        raise programs.ProgramFailed("debugfs", reason)


def _edit(place: str, commands: Sequence[str], script: Path) -> None:
    script.write_text("\n".join(commands) + "\n")
    programs.run("debugfs", "-w", "-f", str(script), place, bounded=True)


def _content(place: str, path: str, back: Path) -> bytes:
    back.unlink(missing_ok=True)
    programs.run("debugfs", "-R", f'dump "{path}" {back}', place, bounded=True)
    return back.read_bytes() if back.exists() else b""
