# SPDX-License-Identifier: Apache-2.0
"""Break a build at every XAPI call it makes: nothing new may be left."""

from __future__ import annotations

import pytest

from tests import builders

REFUSAL = ["INTERNAL_ERROR", "a fault that the test put here"]


def calls_of_a_build(rig) -> list[str]:
    instance = builders.instance(rig.image_id)
    with rig.recording() as made:
        rig.spawn(instance)
    rig.destroy(instance)
    return list(made)


def state(rig) -> dict:
    """Return what is on the host, less how the SR arranges its files.

    A clone gives its image a parent file, which goes when the SR coalesces.
    """
    found = rig.sim.inventory()
    found.pop("files")
    return found


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer-lost"])
def test_a_build_broken_at_any_call_leaves_nothing(rig, after):
    calls = calls_of_a_build(rig)  # the image is cached from here on
    calls = calls_of_a_build(rig)
    before = state(rig)
    for number, method in enumerate(calls):
        if method == "task.destroy":
            continue  # its failure costs the build nothing: tested below
        rig.sim.faults.clear()
        seen_before = calls[:number].count(method)
        rig.sim.faults.add(bare(method), REFUSAL, skip=seen_before, after=after)
        instance = builders.instance(rig.image_id)
        with pytest.raises(Exception, match="fault that the test put|test put here"):
            rig.spawn(instance)
        rig.sim.faults.clear()
        # The compute manager destroys after every failed build.
        rig.destroy(instance)
        assert state(rig) == before, f"left over after {method} (call {number})"


def bare(method: str) -> str:
    """Return the message that an ``Async.`` call carries out."""
    return method.removeprefix("Async.")


def test_a_task_that_cannot_be_destroyed_does_not_fail_the_build(rig):
    rig.sim.faults.add("task.destroy", REFUSAL)
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    assert rig.driver.get_info(instance).state == 1


def test_a_broken_download_leaves_nothing(rig):
    before = rig.sim.inventory()
    for method in ("SR.scan", "VDI.get_by_uuid", "VDI.set_other_config"):
        rig.sim.faults.add(method, REFUSAL)
        with pytest.raises(Exception, match="test put here"):
            rig.spawn(builders.instance(rig.image_id))
        rig.sim.faults.clear()
        found = rig.sim.inventory()
        assert found["VM"] == before["VM"]
        assert found["VIF"] == before["VIF"]
