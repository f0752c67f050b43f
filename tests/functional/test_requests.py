# SPDX-License-Identifier: Apache-2.0
"""What the operations cost, in XAPI requests; a number here never rises."""

from __future__ import annotations

from tests import builders

# With the compute manager's own look at the new server that makes 12.
SPAWN_CACHED_ONE_VIF = 11
SPAWN_UNCACHED_ONE_VIF = 22
DESTROY_ONE_VIF = 6


def test_spawn_of_a_cached_image(rig):
    rig.spawn(builders.instance(rig.image_id))
    with rig.recording() as made:
        rig.spawn(builders.instance(rig.image_id), active=False)
    assert len(made) <= SPAWN_CACHED_ONE_VIF, made


def test_spawn_of_an_image_not_cached(rig):
    with rig.recording() as made:
        rig.spawn(builders.instance(rig.image_id))
    assert len(made) <= SPAWN_UNCACHED_ONE_VIF, made


def test_destroy(rig):
    instance = builders.instance(rig.image_id)
    rig.spawn(instance)
    with rig.recording() as made:
        rig.destroy(instance)
    assert len(made) <= DESTROY_ONE_VIF, made


def test_the_driver_counts_what_the_host_counts(rig):
    seen = rig.sim.requests.total
    with rig.recording() as made:
        rig.spawn(builders.instance(rig.image_id))
    assert rig.sim.requests.total - seen == len(made)
