# SPDX-License-Identifier: Apache-2.0
"""Builds, removals and snapshots, broken at every step and every call they make.

Whatever happened, the host holds nothing new afterwards, and what was there before is
intact. How many were broken is printed (``pytest -s``).
"""

from __future__ import annotations

import pytest

from tests import breaking, builders
from tests.functional.snapshots import Snapshots, snapshotting

# How an error that the host answered is told to the operator.
NAMES_THE_CAUSE = ("refused", "refused after")


@pytest.fixture
def bystander(rig):
    """A server that is none of the operation's business."""
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    return instance


def judge(rig, bystander, broken, capsys):
    """Look at all that was broken."""
    for one in broken:
        assert one.after == one.before, f"left over: {one}"
        # What comes out after a stream's end is only seen to be no part of it.
        is_stream = one.trouble == "refused after" and one.method.startswith("GET ")
        if one.failed and one.trouble in NAMES_THE_CAUSE and not is_stream:
            assert breaking.WORDS in str(one.error), one
    assert rig.driver.get_info(bystander).state == 1
    failed = sum(one.failed for one in broken)
    with capsys.disabled():
        print(f" [{len(broken)} broken, {failed} failed, 0 left over]", end="")


def every_call(rig, operation):
    return [
        one
        for name, trouble in breaking.TROUBLES.items()
        for one in breaking.break_calls(rig, operation, name, trouble)
    ]


BUILDS = {
    "cached": {},
    "not started": {"power_on": False},
}


@pytest.mark.parametrize("kind", BUILDS)
def test_builds_broken_at_every_call(rig, bystander, capsys, kind):
    operation = breaking.spawning(rig, **BUILDS[kind])
    broken = every_call(rig, operation)
    assert len(broken) >= 20
    # A refusal is a failure; an answer that was lost is looked up.
    assert all(one.failed for one in broken if one.trouble in NAMES_THE_CAUSE)
    judge(rig, bystander, broken, capsys)


def test_builds_broken_at_every_step(rig, bystander, capsys):
    broken = list(breaking.break_steps(rig, breaking.spawning(rig)))
    assert len(broken) >= 12
    assert all(isinstance(one.error, breaking.Broken) for one in broken)
    judge(rig, bystander, broken, capsys)


def test_builds_without_cache_broken_at_every_call(rig, bystander, capsys):
    rig.set_option("cache_images", "none")
    rig.driver.cleanup_host("compute1")
    rig.start()
    broken = every_call(rig, breaking.spawning(rig))
    assert len(broken) >= 20
    judge(rig, bystander, broken, capsys)


def test_removals_broken_at_every_call(rig, bystander, capsys):
    broken = every_call(rig, breaking.destroying(rig))
    assert len(broken) >= 12
    judge(rig, bystander, broken, capsys)


@pytest.fixture
def hasty(rig):
    """A rig that looks often for what is merged, and asks no service twice."""
    rig.set_option("vhd_coalesce_poll_interval", 0.1)
    rig.set_option("num_retries", 0, "glance")
    rig.driver.cleanup_host("compute1")
    rig.start()
    return rig


@pytest.fixture
def operation(hasty):
    """The snapshot of a server whose guest writes."""
    snapshots = Snapshots(hasty)
    server = snapshots.server()
    server.write(5 * builders.MIB, b"what its guest wrote")
    return snapshotting(snapshots, server)


def test_snapshots_broken_at_every_call(hasty, operation, bystander, capsys):
    broken = every_call(hasty, operation)
    assert len(broken) >= 15
    judge(hasty, bystander, broken, capsys)


def test_snapshots_broken_at_every_step(hasty, operation, bystander, capsys):
    broken = list(breaking.break_steps(hasty, operation))
    assert len(broken) >= 12
    judge(hasty, bystander, broken, capsys)
