# SPDX-License-Identifier: Apache-2.0
"""What a fresh host shows before anybody made anything."""

import xml.etree.ElementTree as ElementTree

import pytest

from tests.sim.clients import NULL, XmlClient
from xenapi_driver.sim import Simulator, schema


@pytest.fixture
def fresh(tmp_path):
    simulator = Simulator(tmp_path / "state", compute_vm=False)
    yield XmlClient(simulator.handle)
    simulator.close()


def only(records):
    (record,) = records.values()
    return record


def test_records_have_exactly_the_fields_of_their_class(fresh):
    for cls, model in schema.load().classes.items():
        if "get_all_records" not in model.messages or model.removed:
            continue
        visible = {n for n, about in model.fields.items() if about.flag != "internal"}
        for record in fresh.call(f"{cls}.get_all_records").values():
            assert set(record) == visible, cls


def test_nobody_has_made_guests_yet(fresh):
    machines = fresh.call("VM.get_all_records").values()
    assert [vm["name_label"] for vm in machines if vm["power_state"] == "Running"] == [
        "Control domain on host: xcpng-01"
    ]
    for cls in ("VIF", "VBD", "VM_guest_metrics", "VLAN", "Bond", "VM_appliance"):
        assert fresh.call(f"{cls}.get_all_records") == {}


def test_the_control_domain_belongs_to_its_host(fresh):
    host_ref, host = fresh.call("host.get_all_records").popitem()
    dom0 = fresh.call("VM.get_record", host["control_domain"])
    assert (dom0["is_control_domain"], dom0["domid"]) == (True, "0")
    assert dom0["resident_on"] == dom0["affinity"] == host_ref
    consoles = [fresh.call("console.get_protocol", ref) for ref in dom0["consoles"]]
    assert sorted(consoles) == ["rfb", "vt100"]


def test_templates_can_be_told_apart_and_carry_their_limits(fresh):
    templates = [
        vm
        for vm in fresh.call("VM.get_all_records").values()
        if vm["is_default_template"]
    ]
    assert len({vm["reference_label"] for vm in templates}) == len(templates) >= 12
    for vm in templates:
        assert vm["is_a_template"]
        assert vm["other_config"]["default_template"] == "true"
        assert "destroy" not in vm["allowed_operations"]
        assert ElementTree.fromstring(vm["recommendations"]).tag == "restrictions"
        disks = vm["other_config"].get("disks")
        assert disks is None or ElementTree.fromstring(disks)[0].tag == "disk"


def test_storage_of_a_fresh_host(fresh):
    kinds = {
        sr["name_label"]: (sr["type"], sr["content_type"])
        for sr in fresh.call("SR.get_all_records").values()
    }
    assert kinds == {
        "Local storage": ("ext", "user"),
        "DVD drives": ("udev", "iso"),
        "Removable storage": ("udev", "disk"),
        "XCP-ng Tools": ("iso", "iso"),
    }
    for pbd in fresh.call("PBD.get_all_records").values():
        assert pbd["currently_attached"]


def test_the_pool_knows_its_coordinator(fresh):
    pool = only(fresh.call("pool.get_all_records"))
    assert fresh.call("host.get_all") == [pool["master"]]
    assert pool["default_SR"] != NULL
    host = only(fresh.call("host.get_all_records"))
    assert len(host["host_CPUs"]) == int(host["cpu_info"]["cpu_count"])
    kinds = [fresh.call("Certificate.get_type", ref) for ref in host["certificates"]]
    assert sorted(kinds) == ["host", "host_internal"]


def test_free_memory_is_what_dom0_and_xen_leave(fresh):
    (host,) = fresh.call("host.get_all")
    dom0 = fresh.call("VM.get_record", fresh.call("host.get_control_domain", host))
    metrics = fresh.call("host.get_metrics", host)
    total = int(fresh.call("host_metrics.get_memory_total", metrics))
    taken = int(dom0["memory_target"]) + int(dom0["memory_overhead"])
    xen = int(fresh.call("host.get_memory_overhead", host))
    assert int(fresh.call("host.compute_free_memory", host)) == total - taken - xen


def test_the_roles_are_there(fresh):
    names = {role["name_label"] for role in fresh.call("role.get_all_records").values()}
    assert {"pool-admin", "vm-operator", "read-only"} <= names


def test_a_vm_for_nova_compute_is_there_when_asked_for(local, sim):
    vm = local.call("VM.get_by_uuid", sim.compute_vm_uuid)
    assert local.call("VM.get_power_state", vm) == "Running"
