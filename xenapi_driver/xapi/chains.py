# SPDX-License-Identifier: Apache-2.0
"""Which disks a disk is based on, and what the storage manager can merge of that.

A snapshot or clone leaves the data in a hidden disk, the base copy, on which both
the disk and its twin are put::

    leaf (managed) --> base copy --> base copy --> ...      VDI.sm_config:vhd-parent

Of two base copies, the upper is merged into the lower when it is the only one on it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.tables import Snapshot, Table
from xenapi_driver.xapi.vdi import VdiRecord

# What the storage manager writes into VDI.sm_config: the UUID of a disk's parent,
# and of which kind it is.
PARENT_KEY = "vhd-parent"
KIND_KEY = "vdi_type"
# Kinds that are no VHD: nothing is merged into them.
_RAW = ("aio", "raw")


class ChainUnknown(errors.XapiError):
    """XAPI does not know (yet) what a disk is based on."""


Chain = tuple[VdiRecord, ...]


def of(now: Snapshot, ref: str) -> Chain:
    """Return a disk and all that it is based on, leaf first.

    :raises HandleInvalid: the disk is gone
    :raises ChainUnknown: a parent is not in the tables, or is based on itself
    """
    disks = now[VdiRecord]
    record = disks.get(ref)
    if record is None:
        raise errors.HandleInvalid("HANDLE_INVALID", ("VDI", ref), "VDI.get_record")
    found = [record]
    while parent := found[-1].sm_config.get(PARENT_KEY):
        record = disks.by_uuid(parent)
        if record is None:
            raise ChainUnknown(
                f"VDI {found[-1].uuid} is based on {parent}, which XAPI does not know."
            )
        if record in found:
            raise ChainUnknown(f"VDI {parent} is based on itself.")
        found.append(record)
    return tuple(found)


def mergeable(now: Snapshot, chain: Sequence[VdiRecord]) -> VdiRecord | None:
    """Return the base copy of a chain that can be merged into its parent, or None.

    That is not so where something else is based on the parent: another server's
    disk, an image in the cache, a snapshot that is kept.
    """
    children = _children(now[VdiRecord], chain[0].sr)
    for node, parent in zip(chain[1:], chain[2:], strict=False):
        base_copies = not node.managed and not parent.managed
        raw = parent.sm_config.get(KIND_KEY) in _RAW
        if base_copies and not raw and children[parent.uuid] == 1:
            return node
    return None


def _children(disks: Table[VdiRecord], sr_ref: str) -> collections.Counter[str]:
    """Return how many disks of an SR are put on each, by UUID."""
    return collections.Counter(
        one.sm_config[PARENT_KEY]
        for one in disks.owned_by(sr_ref)
        if PARENT_KEY in one.sm_config
    )
