# SPDX-License-Identifier: Apache-2.0
"""Break a build at every XAPI call it makes: nothing new may be left."""

from __future__ import annotations

import pytest
from nova import exception as nova_exception

from tests import breaking, builders


@pytest.mark.parametrize("name", breaking.SURVIVED)
def test_a_build_survives_trouble_at_any_call(rig, name):
    """Features, 204: it ends well, or it is undone."""
    bystander = builders.instance(rig.image_id)
    rig.spawn(bystander)
    build = breaking.spawning(rig)
    trouble = breaking.SURVIVED[name]
    broken = list(breaking.break_calls(rig, build, name, trouble))
    assert len(broken) >= 10
    for one in broken:
        assert one.after == one.before, f"left over after {one.method} ({one.number})"
    # A toolstack that was restarted has forgotten what it was doing, so that of a
    # clone nobody can tell whether it was begun: such a build is undone.
    unknown = {"VDI.clone"} if name == "restart" else set()
    assert {one.method for one in broken if one.failed} <= unknown
    assert rig.driver.get_info(bystander).state == 1


def test_a_task_that_cannot_be_destroyed_does_not_fail_the_build(rig):
    rig.sim.faults.add("task.destroy", breaking.REFUSAL)
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    assert rig.driver.get_info(instance).state == 1


@pytest.mark.parametrize("answer_lost", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize(
    "method",
    [
        "host.call_plugin",
        "SR.scan",
        "VDI.set_other_config",
        "VDI.set_name_label",
    ],
)
def test_a_broken_download_leaves_nothing(rig, method, answer_lost):
    before = rig.sim.inventory()
    rig.sim.faults.add(method, breaking.REFUSAL, after=answer_lost)
    with pytest.raises(nova_exception.NovaException, match="test put here"):
        rig.spawn(builders.instance(rig.image_id))
    rig.sim.faults.clear()
    assert rig.sim.inventory() == before
