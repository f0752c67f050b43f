# SPDX-License-Identifier: Apache-2.0
"""The VHD reader of the plugins against files that a host's own tool made."""

import os
import random

import pytest
from xenapi_dom0 import failures, vhd

from tests.dom0 import golden
from tests.dom0.vhd_files import VhdFile

EPOCH = 946684800


@pytest.fixture
def disk(tmp_path):
    """Return a function that puts a golden file into a folder and checks it."""

    def put(name, called=None):
        path = tmp_path / (called or f"{name}.vhd")
        path.write_bytes(golden.read(name))
        return vhd.check(str(path), name)

    return put


@pytest.mark.parametrize(
    ("name", "kind", "hidden"),
    [("base", vhd.DYNAMIC, False), ("mid", vhd.DIFFERENCING, False),
     ("leaf", vhd.DIFFERENCING, False), ("hidden", vhd.DYNAMIC, True)],
)
def test_what_the_hosts_tool_made_is_understood(disk, name, kind, hidden):
    found = disk(name)
    assert (kind, hidden, 64 * 1024 * 1024) == (
        found.kind, found.hidden, found.virtual_size
    )


@pytest.mark.parametrize("name", ["bad-bat", "bad-footer-checksum"])
def test_what_the_hosts_tool_refuses_is_refused(disk, name):
    with pytest.raises(failures.Failure) as caught:
        disk(name)
    assert caught.value.code == failures.IMAGE_CORRUPT
    assert caught.value.params[0].startswith(name + ": ")


@pytest.mark.parametrize(("child", "parent"), [("leaf", "mid"), ("mid", "base")])
def test_a_parent_is_written_as_the_hosts_tool_writes_it(disk, tmp_path, child, parent):
    expected = golden.read(child)
    time_at = 512 + 56  # parent's time in the header
    seconds = int.from_bytes(expected[time_at:time_at + 4], "big")
    child_disk, parent_disk = disk(child), disk(parent)
    # First away from the right one, so that every field has to be written again.
    vhd.set_parent(child_disk, disk("base", "a-much-longer-name-than-before.vhd"))
    assert expected != (tmp_path / f"{child}.vhd").read_bytes()
    os.utime(parent_disk.path, (EPOCH + seconds, EPOCH + seconds))
    vhd.set_parent(child_disk, parent_disk)
    assert expected == (tmp_path / f"{child}.vhd").read_bytes()


def test_hiding_is_what_the_hosts_tool_does(disk, tmp_path):
    hidden = golden.read("hidden")
    visible = tmp_path / "visible.vhd"
    # The tool's own flag taken away by hand, with the checksum: one bit less set.
    data = bytearray(hidden)
    for at in (0, len(data) - 512):
        data[at + 85] = 0
        stored = int.from_bytes(data[at + 64:at + 68], "big")
        data[at + 64:at + 68] = (stored + 1).to_bytes(4, "big")
    visible.write_bytes(data)
    vhd.hide(vhd.check(str(visible), "visible"))
    assert hidden == visible.read_bytes()


def test_no_change_of_one_metadata_byte_does_more_than_refuse(tmp_path):
    """Whatever byte is wrong: the answer is a Vhd or IMAGE_CORRUPT, nothing else."""
    good = bytes(VhdFile(fill=1))
    path = tmp_path / "changed.vhd"
    path.write_bytes(good)
    dice = random.Random(20261121)
    refused = 0
    with open(path, "r+b") as out:
        for _ in range(400):
            at = dice.choice([dice.randrange(1536 + 4), len(good) - 1 -
                              dice.randrange(512)])
            out.seek(at)
            out.write(bytes([good[at] ^ (1 << dice.randrange(8))]))
            out.flush()
            try:
                vhd.check(str(path), "x")
            except failures.Failure as exc:
                assert exc.code == failures.IMAGE_CORRUPT
                refused += 1
            out.seek(at)
            out.write(good[at:at + 1])
    assert refused == 400
