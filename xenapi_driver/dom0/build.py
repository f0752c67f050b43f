# SPDX-License-Identifier: Apache-2.0
"""All three packages of one version: tarball, RPM, supplemental pack."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import tempfile

from xenapi_driver.dom0 import pack, rpm, tarball, tools, tree

KINDS = ("tarball", "rpm", "pack")


@dataclasses.dataclass(frozen=True)
class Made:
    """One package, or why there is none.

    :ivar kind: one of ``KINDS``
    :ivar path: None where it could not be made
    :ivar reason: why not, without a full stop; "" where it was
    """

    kind: str
    path: pathlib.Path | None
    reason: str = ""


def build(
    folder: pathlib.Path, version: str, output: pathlib.Path, kinds: tuple[str, ...]
) -> list[Made]:
    """Make packages and return one ``Made`` each, in the order of ``KINDS``.

    A package that needs a missing tool does not keep the others from being made.

    :param folder: ``dom0_plugins`` of a source tree or of an installation
    :raises tree.TreeUnfit: the folder cannot be packed at all
    """
    laid = tree.entries(folder, version)
    epoch = source_date(folder)
    output.mkdir(parents=True, exist_ok=True)
    made = {}
    with tempfile.TemporaryDirectory(prefix="xenapi-driver-dom0-") as scratch:
        # What was not asked for is made on the way, and goes.
        places = {kind: output if kind in kinds else scratch for kind in KINDS}
        tar = tarball.write(laid, version, epoch, pathlib.Path(scratch))
        made["tarball"] = Made("tarball", _put(tar, places["tarball"]))
        try:
            if {"rpm", "pack"} & set(kinds):
                package = rpm.write(laid, tar, folder / rpm.SPEC, version, epoch)
                made["rpm"] = Made("rpm", _put(package, places["rpm"]))
            if "pack" in kinds:
                iso = pack.write(package, version, epoch)
                made["pack"] = Made("pack", _put(iso, places["pack"]))
        except (tools.ToolMissing, tools.ToolFailed) as exc:
            for kind in KINDS:
                made.setdefault(kind, Made(kind, None, str(exc)))
    return [made[kind] for kind in KINDS if kind in kinds]


def source_date(folder: pathlib.Path) -> int:
    """Return the time that packages bear, in seconds since 1970.

    ``SOURCE_DATE_EPOCH`` where it is set, in a checkout the last commit's, else that
    of the youngest file.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdecimal():
        return int(given)
    git = ["git", "-C", str(folder), "log", "-1", "--format=%ct", "--", "."]
    try:
        asked = subprocess.run(git, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        asked = None
    if asked is not None and asked.returncode == 0 and asked.stdout.strip().isdecimal():
        return int(asked.stdout)
    files = [file for top in tree.TOPS for file in (folder / top).rglob("*.py")]
    return max((int(file.stat().st_mtime) for file in files), default=0)


def _put(file: pathlib.Path, place: pathlib.Path | str) -> pathlib.Path:
    """Move a package to its place in one step; there it may stand already."""
    target = pathlib.Path(place) / file.name
    if target == file:
        return file
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(file.read_bytes())
    return beside.replace(target)
