# SPDX-License-Identifier: Apache-2.0
"""What the operations cost, in XAPI requests; a number here never rises."""

from __future__ import annotations

import pytest
from nova.compute import provider_tree

from tests import builders
from xenapi_driver import driver as xenapi

# The compute manager's own look at the new server costs nothing.
SPAWN_CACHED_ONE_VIF = 10
SPAWN_UNCACHED_ONE_VIF = 15
DESTROY_ONE_VIF = 4


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


@pytest.mark.parametrize(
    ("verb", "arguments", "most"),
    [
        ("get_info", ("server",), 0),
        ("list_instances", (), 0),
        ("list_instance_uuids", (), 0),
        ("get_num_instances", (), 0),
        ("instance_exists", ("server",), 0),
        ("pause", ("server",), 1),
        ("power_off", ("server", 60), 2),
        ("reboot", ("context", "server", None, "HARD"), 2),
        ("reboot", ("context", "server", None, "SOFT"), 2),
    ],
)
def test_what_a_running_server_costs(rig, verb, arguments, most):
    server = builders.instance(rig.image_id)
    rig.spawn(server)
    rig.driver.get_info(server)
    places = {"server": server, "context": rig.context}
    with rig.recording() as made:
        getattr(rig.driver, verb)(*(places.get(one, one) for one in arguments))
        state = rig.driver.get_info(server).state
    assert len(made) <= most, made
    domain = rig.host.records("VM", name_label=server.name)[0]["power_state"]
    assert xenapi.POWER_STATES[domain] == state


def test_a_resource_report_asks_nothing(rig):
    (node,) = rig.driver.get_available_nodes()
    tree = provider_tree.ProviderTree()
    tree.new_root(node, "00000000-0000-0000-0000-00000000000a", generation=0)
    rig.spawn(builders.instance(rig.image_id))
    with rig.recording() as made:
        found = rig.driver.get_available_resource(node)
        rig.driver.update_provider_tree(tree, node)
    assert made == []
    assert found["vcpus_used"] > 0


def test_the_driver_counts_what_the_host_counts(rig):
    seen = rig.sim.requests.total
    with rig.recording() as made:
        rig.spawn(builders.instance(rig.image_id))
    assert rig.sim.requests.total - seen == len(made)
