# SPDX-License-Identifier: Apache-2.0
"""What the driver tells Nova and placement of its host."""

from __future__ import annotations

import inspect
import json

import nova.conf
import pytest
from nova.compute import provider_tree
from nova.objects import fields
from nova.virt import driver as nova_driver

from tests import builders
from xenapi_driver import driver as xenapi

CONF = nova.conf.CONF
ROOT = "00000000-0000-0000-0000-00000000000a"


@pytest.fixture
def tree(rig):
    (node,) = rig.driver.get_available_nodes()
    tree = provider_tree.ProviderTree()
    tree.new_root(node, ROOT, generation=0)
    return tree


def inventory(rig, tree) -> dict:
    (node,) = rig.driver.get_available_nodes()
    rig.driver.update_provider_tree(tree, node)
    return tree.data(node).inventory


def test_a_report_is_of_the_types_that_nova_stores(rig):
    (node,) = rig.driver.get_available_nodes()
    rig.spawn(builders.instance(rig.image_id))
    found = rig.driver.get_available_resource(node)
    assert found["hypervisor_hostname"] == node
    assert {"topology", "features", "vendor", "model", "arch"} <= set(
        json.loads(found["cpu_info"])
    )
    assert found["hypervisor_version"] >= 1_000_000
    for arch, hypervisor, mode in found["supported_instances"]:
        assert arch in fields.Architecture.ALL
        assert hypervisor in fields.HVType.ALL
        assert mode in fields.VMMode.ALL
    assert 0 < found["memory_mb_used"] <= found["memory_mb"]
    # Without the key, each os-hypervisors request asks this service.
    assert "uptime" in found["stats"]


def test_placement_gets_three_classes_within_its_rules(rig, tree):
    found = inventory(rig, tree)
    assert set(found) == {"VCPU", "MEMORY_MB", "DISK_GB"}
    for one in found.values():
        assert 0 <= one["reserved"] <= one["total"]
        assert one["allocation_ratio"] > 0
        assert one["max_unit"] == one["total"]


def test_a_second_update_costs_nothing_and_changes_nothing(rig, tree):
    (node,) = rig.driver.get_available_nodes()
    rig.driver.get_available_resource(node)
    first = inventory(rig, tree)
    with rig.recording() as made:
        assert inventory(rig, tree) == first
    assert made == []


def test_more_reserved_than_there_is_stays_a_valid_inventory(rig, tree):
    CONF.set_override("reserved_host_memory_mb", 2**30)
    try:
        memory = inventory(rig, tree)["MEMORY_MB"]
    finally:
        CONF.clear_override("reserved_host_memory_mb")
    assert memory["reserved"] == memory["total"]


def test_a_sharing_provider_has_the_disk(rig, tree):
    shared = "00000000-0000-0000-0000-00000000000b"
    tree.new_root("shared-storage", shared, generation=0)
    tree.update_inventory(shared, {"DISK_GB": {"total": 100}})
    tree.update_traits(shared, ["MISC_SHARES_VIA_AGGREGATE"])
    aggregate = "00000000-0000-0000-0000-00000000000c"
    for provider in (ROOT, shared):
        tree.update_aggregates(provider, [aggregate])
    assert "DISK_GB" not in inventory(rig, tree)


def test_signatures_are_novas():
    checked = 0
    for name, ours in vars(xenapi.XenAPIDriver).items():
        theirs = getattr(nova_driver.ComputeDriver, name, None)
        if inspect.isfunction(ours) and theirs and not name.startswith("_"):
            assert _shape(ours) == _shape(theirs), name
            checked += 1
    assert checked > 15


def _shape(method) -> list:
    found = inspect.signature(method).parameters.values()
    return [(p.name, p.default) for p in found]
