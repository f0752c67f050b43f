# SPDX-License-Identifier: Apache-2.0
"""Turn the VHD files of an image into a chain that a file-based SR can take.

Image layout, as existing images have it: ``0.vhd`` is the leaf, ``1.vhd`` its parent
and so on; or, in older ones, ``snap.vhd``, ``image.vhd``, ``base.vhd``, any of them;
or one file of any name.
"""
import os

from xenapi_dom0 import failures, paths, vhd
from xenapi_dom0.serve import LOG

_OLD_NAMES = ("snap.vhd", "image.vhd", "base.vhd")  # leaf first


def order(names):
    """Return the member names of an image, leaf first.

    :raises Failure: IMAGE_CORRUPT, where they make no sequence
    """
    if not names:
        raise failures.Failure(failures.IMAGE_CORRUPT, "no VHD file in the image")
    if len(names) == 1:
        return list(names)
    if set(names) <= set(_OLD_NAMES):
        return [name for name in _OLD_NAMES if name in names]
    expected = ["%d.vhd" % number for number in range(len(names))]
    for number, name in enumerate(expected):
        if name not in names:
            raise failures.Failure(
                failures.IMAGE_CORRUPT, "expected sequence number %d" % number
            )
    return expected


def assemble(members, folder, uuid_stack, ours=False):
    """Check, rename and link the files of an image in ``folder``.

    :param members: dict of member name to path
    :param uuid_stack: names to give, the last one to the leaf
    :param ours: the files come from an SR of a host of ours, not from a user: what
        its crash left is mended, and each must lie on the very disk it was made on
    :returns: list of (uuid, Vhd), leaf first; files are ``<uuid>.vhd`` in folder
    :raises Failure: IMAGE_CORRUPT; BAD_ARGUMENT with too few UUIDs
    """
    names = order(members)
    if len(names) > len(uuid_stack):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "uuid_stack",
            "has fewer UUIDs than the image has disks",
        )
    uuids = uuid_stack[::-1][:len(names)]
    if ours:
        for name in names:
            if vhd.mend(members[name]):
                LOG.warning("Mended %s, which a crash had left open.", name)
    disks = [vhd.check(members[name], name) for name in names]
    _check_places(names, disks)
    if ours:
        _check_parents(names, disks)
    renamed = []
    for uuid, disk in zip(uuids, disks):
        path = paths.vhd_in_sr(folder, uuid)
        os.rename(disk.path, path)
        renamed.append(disk._replace(path=path))
        vhd.fit_geometry(renamed[-1])
    for child, parent in reversed(list(zip(renamed, renamed[1:]))):
        if not parent.hidden:
            vhd.hide(parent)
        vhd.set_parent(child, parent)
    # Judged again as they will be used: a locator could have pointed into the table.
    checked = [vhd.check(disk.path, name) for name, disk in zip(names, renamed)]
    return list(zip(uuids, checked))


def _check_places(names, disks):
    """Refuse a disk that is not what its place in the chain needs."""
    if disks[0].hidden:
        # Hidden and without a child: the SR would collect it as garbage.
        raise failures.Failure(
            failures.IMAGE_CORRUPT, "%s: the leaf is marked as hidden" % names[0]
        )
    for name, disk in zip(names[:-1], disks[:-1]):
        if disk.kind != vhd.DIFFERENCING:
            raise failures.Failure(
                failures.IMAGE_CORRUPT, "%s: has no parent, but is no base" % name
            )
    if disks[-1].kind != vhd.DYNAMIC:
        # It would read whatever file of this SR it names.
        raise failures.Failure(
            failures.IMAGE_CORRUPT,
            "%s: names a parent that is not in the image" % names[-1],
        )


def _check_parents(names, disks):
    """Refuse disks that do not belong together: numbers left by another attempt."""
    for name, child, parent in zip(names, disks, disks[1:]):
        if child.parent_uuid != parent.uuid:
            raise failures.Failure(
                failures.IMAGE_CORRUPT,
                "%s: was not made on the disk that follows it; discard what arrived "
                "and send the whole chain again" % name,
            )


def placed(sr_path, uuid_stack):
    """Return the chain that an earlier call made of ``uuid_stack`` in the SR.

    :returns: list of (uuid, Vhd), leaf first; empty if its leaf is not there
    """
    found = []
    for uuid in reversed(uuid_stack):
        path = paths.vhd_in_sr(sr_path, uuid)
        if not os.path.lexists(path):
            break
        disk = vhd.check(path, uuid)
        if found and disk.uuid != found[-1][1].parent_uuid:
            break
        found.append((uuid, disk))
        if disk.kind != vhd.DIFFERENCING:
            break
    return found


def answer(disks):
    """Return what a plugin says of a chain of (uuid, Vhd) that it put into an SR."""
    uuid, leaf = disks[0]
    return {
        "root": {"uuid": uuid, "virtual_size": leaf.virtual_size},
        "chain": [uuid for uuid, _disk in disks],
        "bytes": sum(disk.size for _uuid, disk in disks),
    }
