# SPDX-License-Identifier: Apache-2.0
"""Changes that take several files of an SR, and their completion after a kill.

Each leaves a file that says what it is about until it is through; :func:`recover`
finishes or undoes what it finds when the SR is opened again:

``<uuid>.snapshot``  the new leaf that is to take the place of ``<uuid>.vhd``
``<uuid>.relink``    name of the file that is to be the parent of ``<uuid>.vhd``
``*.copying``, ``*.part``  a file that was being written
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from xenapi_driver.sim.storage import vhd

BASE_MODE, LEAF_MODE = 0o444, 0o644


def put_on_base(source: Path, base: Path) -> None:
    """Rename a disk to ``base``, hide it, and put an empty leaf in its place.

    :raises FileExistsError: ``base`` is there already
    """
    leaf = source.with_suffix(".snapshot")
    with vhd.VhdFile(source) as disk:
        size = disk.footer.size
    vhd.create(leaf, size, source, parent_name=base.name)
    try:
        # From here on the leaf fits its parent, and recover() goes forward.
        base.hardlink_to(source)
    except BaseException:
        leaf.unlink()
        raise
    leaf.replace(source)
    hide(base)


def hide(path: Path) -> None:
    """Make a disk a base copy, which nobody writes any more."""
    with vhd.VhdFile(path, writable=True) as disk:
        disk.hide()
    path.chmod(BASE_MODE)


def unhide(path: Path) -> None:
    """Make a base copy a disk again."""
    path.chmod(LEAF_MODE)
    with vhd.VhdFile(path, writable=True) as disk:
        disk.hide(False)


def relink(child: Path, parent: Path) -> None:
    """Put a disk on another parent, which reads as its old one does."""
    journal, part = child.with_suffix(".relink"), child.with_suffix(".relink.part")
    part.write_text(parent.name)
    part.replace(journal)
    mode = child.stat().st_mode & 0o777
    child.chmod(mode | 0o200)
    vhd.relink(child, parent)
    child.chmod(mode)
    journal.unlink()


def recover(directory: Path) -> None:
    """Finish or undo what a kill interrupted."""
    for leaf in directory.glob("*.snapshot"):
        _finish_snapshot(leaf)
    for journal in directory.glob("*.relink"):
        child = journal.with_suffix(".vhd")
        if child.exists():
            relink(child, directory / journal.read_text())
        else:
            journal.unlink()
    for pattern in ("*.copying", "*.copying.raw", "*.part"):
        for path in directory.glob(pattern):
            path.unlink()
    _hide_parents(directory)


def _finish_snapshot(leaf: Path) -> None:
    parent = None
    with contextlib.suppress(vhd.BadVhd), vhd.VhdFile(leaf) as disk:
        parent = disk.parent_path
    if parent is not None and parent.exists():
        leaf.replace(leaf.with_suffix(".vhd"))
    else:
        leaf.unlink()


def _hide_parents(directory: Path) -> None:
    """Hide what other disks are based on, as it was about to be."""
    parents = set()
    for path in directory.glob("*.vhd"):
        with contextlib.suppress(vhd.BadVhd), vhd.VhdFile(path) as disk:
            parents.add(disk.parent_path)
    for parent in parents:
        if parent is not None and parent.exists():
            with contextlib.suppress(vhd.BadVhd):
                _hide_if_seen(parent)


def _hide_if_seen(path: Path) -> None:
    with vhd.VhdFile(path) as disk:
        hidden = disk.footer.hidden
    if not hidden:
        hide(path)
