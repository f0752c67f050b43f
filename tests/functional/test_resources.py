# SPDX-License-Identifier: Apache-2.0
"""What the driver tells Nova and placement of its host."""

from __future__ import annotations

import inspect
import json
import logging
import re

import nova.conf
import os_traits
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
    # The host's cards are dom0's own.
    assert json.loads(found["pci_passthrough_devices"]) == []
    # Without the key, each os-hypervisors request asks this service.
    assert " up " in found["stats"]["uptime"]


def test_a_host_with_a_new_name_is_still_the_same_node(rig):
    nodes = rig.driver.get_available_nodes()
    rig.host.call("host.set_hostname_live", rig.sim.host_uuid, "renamed")
    assert rig.host.records("host")[0]["hostname"] == "renamed"
    assert rig.driver.get_available_nodes() == nodes
    assert rig.driver.node_is_available(nodes[0])
    found = rig.driver.get_available_resource(nodes[0])
    assert found["hypervisor_hostname"] == nodes[0]


def test_placement_gets_three_classes_within_its_rules(rig, tree):
    found = inventory(rig, tree)
    assert set(found) == {"VCPU", "MEMORY_MB", "DISK_GB"}
    for one in found.values():
        assert 0 <= one["reserved"] <= one["total"]
        assert one["allocation_ratio"] > 0
        assert one["max_unit"] == one["total"]


def traits(rig, tree) -> set[str]:
    (node,) = rig.driver.get_available_nodes()
    rig.driver.update_provider_tree(tree, node)
    return tree.data(node).traits


def test_traits_of_the_processors(rig, tree):
    found = traits(rig, tree)
    assert {"HW_CPU_X86_SSE2", "HW_CPU_HYPERTHREADING", "HW_ARCH_X86_64"} <= found
    assert found <= set(os_traits.get_traits())


def test_traits_of_others_stay(rig, tree):
    others = {"CUSTOM_RACK_7", "COMPUTE_NODE", "HW_NIC_SRIOV"}
    gone = "HW_CPU_X86_AMXTILE"
    tree.add_traits(ROOT, *others, gone)
    found = traits(rig, tree)
    assert others <= found
    assert gone not in found


def test_uptime_is_told_without_a_request(rig):
    with rig.recording() as made:
        said = rig.driver.get_host_uptime()
    assert re.fullmatch(r" \d\d:\d\d:\d\d up .*(\d min|\d:\d\d)", said)
    assert made == []


def test_a_reserve_that_is_too_small_is_said_once(rig, caplog):
    (node,) = rig.driver.get_available_nodes()
    with caplog.at_level(logging.WARNING):
        for _time in range(2):
            rig.driver.get_available_resource(node)
    (said,) = [
        record.getMessage()
        for record in caplog.records
        if "reserved_host_memory_mb" in record.getMessage()
    ]
    apart = int(re.search(r"take (\d+) MiB", said)[1])
    assert apart > CONF.reserved_host_memory_mb


def test_a_reserve_that_is_enough_is_no_matter(rig, caplog):
    (node,) = rig.driver.get_available_nodes()
    CONF.set_override("reserved_host_memory_mb", 2**30)
    try:
        with caplog.at_level(logging.WARNING):
            rig.driver.get_available_resource(node)
    finally:
        CONF.clear_override("reserved_host_memory_mb")
    assert "reserved_host_memory_mb" not in caplog.text


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
