# SPDX-License-Identifier: Apache-2.0
"""Chains by records alone: who is based on whom, and what can be merged."""

from __future__ import annotations

import pytest

from xenapi_driver.xapi import chains, effects, errors
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.vdi import VdiRecord

RAW = {chains.KIND_KEY: "aio"}


def disk(name: str, parent: str = "", **changes: object) -> VdiRecord:
    """Return a disk whose reference and UUID are its name; base copies begin with b."""
    values = {
        "ref": name, "uuid": name, "name_label": "", "virtual_size": 1,
        "physical_utilisation": 1, "sr": "sr", "vbds": (), "other_config": {},
        "sm_config": {chains.PARENT_KEY: parent} if parent else {},
        "managed": not name.startswith("b"), "current_operations": {},
        "is_a_snapshot": False, "snapshot_of": None, **changes,
    }  # fmt: skip
    return VdiRecord(**values)


def tables(*disks: VdiRecord) -> Snapshot:
    return Snapshot(KINDS).changed({VdiRecord: {one.ref: one for one in disks}})


def names(chain: chains.Chain) -> list[str]:
    return [one.uuid for one in chain]


def mergeable(*disks: VdiRecord) -> str | None:
    now = tables(*disks)
    found = chains.mergeable(now, chains.of(now, disks[0].ref))
    return found and found.uuid


def test_a_chain_is_leaf_first():
    now = tables(disk("leaf", "b2"), disk("b1"), disk("b2", "b1"), disk("other", "b1"))
    assert names(chains.of(now, "leaf")) == ["leaf", "b2", "b1"]
    assert names(chains.of(now, "b1")) == ["b1"]


@pytest.mark.parametrize(
    ("disks", "words"),
    [
        ([disk("leaf", "b9")], "does not know"),
        ([disk("leaf", "b1"), disk("b1", "b1")], "based on itself"),
        ([disk("leaf", "b1"), disk("b1", "b2"), disk("b2", "b1")], "based on itself"),
    ],
)
def test_what_is_no_chain_is_said(disks, words):
    with pytest.raises(chains.ChainUnknown, match=words):
        chains.of(tables(*disks), "leaf")


def test_a_disk_that_is_gone_has_no_chain():
    with pytest.raises(errors.HandleInvalid):
        chains.of(tables(), "leaf")


@pytest.mark.parametrize(
    ("disks", "found"),
    [
        # The storage manager merges base copies, of which the lower has one child.
        ([disk("leaf", "b2"), disk("b2", "b1"), disk("b1")], "b2"),
        ([disk("leaf", "b2"), disk("twin", "b2"), disk("b2", "b1"), disk("b1")], "b2"),
        # A leaf is another matter, and so is a single base copy.
        ([disk("leaf", "b1"), disk("b1")], None),
        ([disk("leaf")], None),
        # Another server, or an image in the cache, needs the lower one.
        ([disk("leaf", "b2"), disk("b2", "b1"), disk("b1"), disk("x", "b1")], None),
        # Deeper down.
        (
            [
                disk("leaf", "b3"), disk("b3", "b2"), disk("x", "b2"),
                disk("b2", "b1"), disk("b1"),
            ],
            "b2",
        ),
        # Nothing is merged into what is no VHD, nor into what somebody can write.
        ([disk("leaf", "b2"), disk("b2", "b1"), disk("b1", sm_config=RAW)], None),
        ([disk("leaf", "b2"), disk("b2", "shown"), disk("shown")], None),
    ],
)  # fmt: skip
def test_what_can_be_merged(disks, found):
    assert mergeable(*disks) == found


def test_a_lost_snapshot_is_known_by_its_original():
    """Also where other disks of the server have the same name."""
    before = tables(disk("root"), disk("swap"), disk("old", snapshot_of="root"))
    taken = disk("new", snapshot_of="root", is_a_snapshot=True)
    another = disk("other", snapshot_of="swap", is_a_snapshot=True)
    ask = ("VDI.snapshot", ("root", {}), before)
    assert effects.outcome(*ask, before) is effects.NOT_DONE
    after = before.changed({VdiRecord: {one.ref: one for one in (taken, another)}})
    assert effects.outcome(*ask, after) == "new"
    assert effects.outcome(*ask, after, taken=["new"]) is effects.NOT_DONE
