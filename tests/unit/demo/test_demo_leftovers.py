# SPDX-License-Identifier: Apache-2.0
"""What counts as left on the host, and what is the cached image."""

import pytest

from demo.failure import DemoFailure
from demo.leftovers import cache_of, differences

BEFORE = {
    "VM": ["dom0"],
    "VDI": ["iso"],
    "VBD": 0,
    "VIF": 0,
    "network": 3,
    "task": 0,
    "files": [],
    "processes": 0,
}


def disk(name, managed=True, parent=None):
    sm_config = {"vhd-parent": parent} if parent else {}
    return {"name_label": name, "managed": managed, "sm_config": sm_config}


def test_cached_image_brings_its_parents():
    disks = {
        "leaf": disk("Glance Image 1", parent="base"),
        "base": disk("Glance Image 1", managed=False),
        "other": disk("instance"),
    }
    assert cache_of(disks, "1") == {"leaf", "base"}


@pytest.mark.parametrize("count", [0, 2])
def test_other_than_one_cached_image_is_a_failure(count):
    disks = {str(i): disk("Glance Image 1") for i in range(count)}
    with pytest.raises(DemoFailure, match="in the cache"):
        cache_of(disks, "1")


def test_nothing_left_but_the_cache():
    after = BEFORE | {"VDI": ["iso", "c"], "files": ["run/sr-mount/s/c.vhd"]}
    assert differences(BEFORE, after, {"c"}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"VM": ["dom0", "instance-1"]}, "VM: "),
        ({"VBD": 1}, "VBD: 0 before, 1 now"),
        ({"processes": 1}, "processes: 0 before, 1 now"),
        ({"VDI": ["iso", "x"]}, "VDI left: x"),
        ({"VDI": []}, "VDI lost: iso"),
        ({"files": ["tmp/staging"]}, "files left: tmp/staging"),
    ],
)
def test_each_leftover_is_named(change, words):
    (found,) = differences(BEFORE, BEFORE | change, {"c"})
    assert found.startswith(words)
