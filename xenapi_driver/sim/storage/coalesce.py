# SPDX-License-Identifier: Apache-2.0
"""What a storage manager's garbage collector does to the chains of an SR.

Three kinds of step, found in this order: a base copy on which nothing is based goes;
a base copy that is its parent's only child is merged into the parent; a leaf that is
its parent's only child is, and then takes the parent's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from xenapi_driver.sim.storage import sr_recovery, vhd
from xenapi_driver.sim.storage.vhd_store import (
    CLOCK_STEP,
    Broken,
    Missing,
    NoSpace,
    Room,
    SrStore,
    VhdInfo,
)


@dataclass(frozen=True)
class Step:
    """One thing to do.

    :ivar kind: delete, merge or leaf
    :ivar node: uuid of the disk that goes, or that takes its parent's place
    :ivar parent: uuid of its parent, "" where there is none
    """

    kind: str
    node: str
    parent: str = ""


def next_step(store: SrStore, fixed: Callable[[str], bool]) -> Step | None:
    """Return what is to be done first, None when the SR is tidy.

    :param fixed: says of a leaf's uuid whether it must stay as it is
    :raises Broken: a file is no VHD, so that nobody knows what it is based on
    """
    tree = store.scan()
    children = _children(tree)
    for info in tree.values():
        if info.hidden and not children[info.uuid]:
            return Step("delete", info.uuid)
    for info in tree.values():
        if info.parent and _takes_more(tree[info.parent], children):
            if info.hidden:
                return Step("merge", info.uuid, info.parent)
            if not children[info.uuid] and not fixed(info.uuid):
                return Step("leaf", info.uuid, info.parent)
    return None


def _takes_more(parent: VhdInfo, children: dict[str, list[str]]) -> bool:
    """Return whether what is based on a disk can be merged into it."""
    return parent.hidden and not parent.raw and len(children[parent.uuid]) == 1


def _children(tree: dict[str, VhdInfo]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {uuid: [] for uuid in tree}
    for info in tree.values():
        if info.parent:
            children[info.parent].append(info.uuid)
    return children


def carry_out(store: SrStore, step: Step, fixed: Callable[[str], bool]) -> bool:
    """Do one step; return False when it could not be done after all.

    The long part of it holds no lock: a parent is seen through its one child alone,
    so nobody notices that it already holds what the child does.
    """
    try:
        if step.kind == "delete":
            return _delete(store, step)
        with store.locked():
            if next_step(store, fixed) != step:
                return False
            _make_room(store, step)
        before = _stamp(store, step.node)
        # Of two writes within a tick of the clock, the second leaves the time as it is.
        sure = time.time_ns() - before[1] > CLOCK_STEP
        _merge(store, step)
        with store.locked():
            tree = store.scan()
            children = _children(tree)
            if not _still(tree, children, step):
                return False
            if step.kind == "merge":
                return _drop(store, step, children[step.node])
            if children[step.node] or fixed(step.node):
                return False
            if not sure or _stamp(store, step.node) != before:
                # It was written, or has grown, or may have been.
                _make_room(store, step)
                _merge(store, step)
            return _take_place(store, step)
    except (NoSpace, Missing, Broken, vhd.BadVhd):
        # A host's collector gives up as well, and begins again at the next scan.
        return False


def _still(
    tree: dict[str, VhdInfo], children: dict[str, list[str]], step: Step
) -> bool:
    """Return whether a node stands where it stood; a clone put it elsewhere."""
    if step.node not in tree or tree[step.node].parent != step.parent:
        return False
    return children[step.parent] == [step.node]


def _stamp(store: SrStore, uuid: str) -> tuple[int, int, int]:
    about = store.path_of(uuid).stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


def _delete(store: SrStore, step: Step) -> bool:
    with store.locked():
        tree = store.scan()
        info = tree.get(step.node)
        if info is None or not info.hidden or _children(tree)[step.node]:
            return False
        store.path_of(step.node).unlink()
        return True


def _make_room(store: SrStore, step: Step) -> None:
    """See that the parent can take what the node holds; it may be smaller."""
    with vhd.VhdFile(store.path_of(step.node)) as node:
        size, count = node.footer.size, len(node.blocks)
    with vhd.VhdFile(store.path_of(step.parent)) as parent:
        small = parent.footer.size < size
    Room(store).take(count * (vhd.BLOCK_SIZE + vhd.PAGE))
    if small:
        store.grow(step.parent, size)


def _merge(store: SrStore, step: Step) -> None:
    """Write what the node itself holds into its parent."""
    target = store.path_of(step.parent)
    target.chmod(sr_recovery.LEAF_MODE)
    with (
        vhd.VhdFile(store.path_of(step.node)) as node,
        vhd.VhdFile(target, writable=True) as parent,
    ):
        for block in node.blocks:
            for first, last in node.runs(block, 0, vhd.SECTORS_PER_BLOCK):
                data = node.read_sectors(block, first, last)
                parent.write_sectors(block, first, data)
    target.chmod(sr_recovery.BASE_MODE)


def _drop(store: SrStore, step: Step, children: list[str]) -> bool:
    for child in children:
        sr_recovery.relink(store.path_of(child), store.path_of(step.parent))
    store.path_of(step.node).unlink()
    return True


def _take_place(store: SrStore, step: Step) -> bool:
    parent = store.path_of(step.parent)
    sr_recovery.unhide(parent)
    parent.replace(store.path_of(step.node))
    return True
