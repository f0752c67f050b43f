# SPDX-License-Identifier: Apache-2.0
"""Snapshots through trouble that a session survives; the rest is in test_every_call."""

from __future__ import annotations

import pytest

from tests import breaking
from tests.functional.snapshots import Snapshots, snapshotting

KILLED = ["XENAPI_PLUGIN_FAILURE", "signal: SIGKILL", "", ""]


@pytest.fixture
def snapshots(bare_rig, tarball):
    bare_rig.set_option("num_retries", 1, "glance")
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    return Snapshots(bare_rig)


@pytest.fixture
def operation(snapshots):
    return snapshotting(snapshots, snapshots.server())


@pytest.mark.parametrize("name", ["expired", "restart", "restart after"])
def test_a_snapshot_survives_trouble_at_any_call(snapshots, operation, name):
    """Features, 204: it ends well, or it is undone."""
    trouble = breaking.SURVIVED[name]
    broken = list(breaking.break_calls(snapshots.rig, operation, name, trouble))
    assert len(broken) >= 5
    assert [str(one) for one in broken if one.after != one.before] == []
    # A toolstack that was restarted has forgotten what it was doing.
    restarted = {"VDI.snapshot", "Async.host.call_plugin"}
    allowed = restarted if name.startswith("restart") else set()
    assert {one.method for one in broken if one.failed} <= allowed


def test_a_plugin_that_is_killed_uploads_again(snapshots, operation):
    rig = snapshots.rig
    before = breaking.on_host(rig)
    rig.sim.faults.add("host.call_plugin", KILLED)
    image = operation.ready()
    operation.act(image)
    operation.settle(image)
    assert breaking.on_host(rig) == before
