# SPDX-License-Identifier: Apache-2.0
"""Searches and idempotent verbs of the record modules."""

import pytest

from tests.sim.clients import GIB, NULL, vbd_record, vdi_record, vif_record, vm_record
from tests.unit.xapi import embedded
from xenapi_driver.xapi import errors, network, pool, vbd, vdi, vif, vm
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.records import KINDS


def make_vm(session, name="instance-1", **changes):
    return vm.create(session, vm_record(name_label=name, **changes))


def make_vdi(session):
    return vdi.create(session, vdi_record(session.pool.default_sr))


def make_vbd(session, vm_ref):
    return vbd.create(session, vbd_record(vm_ref, make_vdi(session)))


def make_vif(session, vm_ref):
    wire = network.find_by_bridge(session, "xenbr0")
    return vif.create(session, vif_record(vm_ref, wire.ref))


def running(session):
    ref = make_vm(session)
    vm.start_on(session, ref, session.host_ref)
    return ref


def test_records_are_typed(session, operator):
    size = str(4 * GIB)
    ref = make_vm(
        session,
        memory_static_max=size,
        memory_dynamic_max=size,
        other_config={"nova_uuid": "n"},
    )
    vm.start_on(session, ref, session.host_ref)
    vif_ref = make_vif(session, ref)
    record = vm.get(session, ref)
    assert record.memory_static_max == 4 * GIB
    assert isinstance(record.domid, int)
    assert str(record.domid) == operator.call("VM.get_domid", ref)
    assert operator.call("VM.get_affinity", ref) == NULL
    assert record.affinity is None
    assert record.resident_on == session.host_ref
    assert record.vifs == (vif_ref,)
    assert record.nova_uuid == "n"


# What hosts tell since a release after XenServer 7.0.
YOUNG = {
    "VM": ("domain_type",),
    "host": ("control_domain",),
    "network": ("managed",),
    "PCI": ("driver_name", "physical_function", "virtual_functions"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_an_older_host_are_usable(session, kind):
    make_vm(session)
    for ref, rec in session.call(f"{kind.XAPI_CLASS}.get_all_records").items():
        for name in YOUNG.get(kind.XAPI_CLASS, ()):
            rec.pop(name, None)
        assert kind.from_xapi(ref, rec).uuid == rec["uuid"]


@pytest.mark.parametrize("address", ["fd00:0:0::7", "fd00::7"])
def test_member_is_known_by_any_form_of_its_address(sim, session, address):
    sim.world.db.update("PIF", sim.world.db.refs("PIF")[0], IPv6=[f"{address}/64"])
    assert pool.member_by_address(session, frozenset({"fd00::7"})) == session.host_ref
    with pytest.raises(errors.NotAMember):
        pool.member_by_address(session, frozenset({"fd00::8"}))


def server(session, name="instance-1", nova_uuid="n", **changes):
    config = {"nova_uuid": nova_uuid}
    return make_vm(session, name, other_config=config, **changes)


def test_server_is_found_at_no_request(session, operator):
    ref = server(session, affinity=session.host_ref)
    server(session, is_a_template=True)
    operator.call("VM.snapshot", ref, "instance-1")
    server(session, "instance-2")
    make_vm(session)
    assert session.records
    with session.requests.recording() as names:
        found = vm.find_server(session, "instance-1", "n")
        taken = vm.name_is_taken(session, "instance-1")
    assert found.ref == ref
    assert taken
    assert names == []


def test_name_that_nobody_has(session):
    server(session, "instance-2")
    assert vm.find_server(session, "instance-1", "n") is None
    assert not vm.name_is_taken(session, "instance-1")


def test_templates_and_snapshots_take_no_name(session, operator):
    make_vm(session, "instance-1", is_a_template=True)
    operator.call("VM.snapshot", make_vm(session, "other"), "instance-1")
    assert len(session.records[vm.VmRecord].named("instance-1")) == 2
    assert not vm.name_is_taken(session, "instance-1")


def test_name_alone_does_not_make_a_server(session):
    make_vm(session)
    server(session, nova_uuid="another")
    assert vm.find_server(session, "instance-1", "n") is None
    assert vm.name_is_taken(session, "instance-1")


def test_server_that_two_vms_claim_to_be(session):
    server(session)
    server(session)
    with pytest.raises(errors.NotUnique, match="instance-1"):
        vm.find_server(session, "instance-1", "n")


@pytest.mark.parametrize("name", ['" or "a" = "a', "back\\slash", 'both "\\" of them'])
def test_name_with_a_quote_is_simply_a_name(session, name):
    server(session)
    assert vm.find_server(session, name, "n") is None
    ref = server(session, name)
    assert vm.find_server(session, name, "n").ref == ref


def test_server_of_another_host_is_none_of_ours(tmp_path):
    with embedded.host(tmp_path, hosts=2) as (_sim, session):
        (other,) = set(session.records[HostRecord]) - {session.host_ref}
        server(session, affinity=other)
        assert vm.find_server(session, "instance-1", "n") is None
        assert vm.ours(session) == []
        ref = server(session, affinity=session.host_ref)
        assert vm.find_server(session, "instance-1", "n").ref == ref
        assert [record.ref for record in vm.ours(session)] == [ref]


def test_ours_are_those_with_novas_key(session):
    ref = server(session, affinity=session.host_ref)
    server(session, affinity=session.host_ref, is_a_template=True)
    make_vm(session, affinity=session.host_ref)
    assert [record.ref for record in vm.ours(session)] == [ref]


@pytest.mark.parametrize(
    ("verb", "method", "make"),
    [
        (vm.destroy, "VM.destroy", make_vm),
        (vdi.destroy, "VDI.destroy", make_vdi),
        (vbd.destroy, "VBD.destroy", lambda on: make_vbd(on, make_vm(on))),
        (vif.destroy, "VIF.destroy", lambda on: make_vif(on, make_vm(on))),
    ],
)
def test_destroying_what_is_gone_is_quiet(session, operator, verb, method, make):
    ref = make(session)
    verb(session, ref)
    assert ref not in operator.call(method.replace("destroy", "get_all"))
    with pytest.raises(errors.HandleInvalid):
        session.call(method, ref)
    with session.requests.recording() as names:
        verb(session, ref)
    assert names == [method]


@pytest.mark.parametrize(
    ("device", "kind", "make"), [(vbd, "VBD", make_vbd), (vif, "VIF", make_vif)]
)
def test_unplugging_what_is_out_is_quiet(session, operator, device, kind, make):
    ref = make(session, running(session))
    device.plug(session, ref)
    assert operator.call(f"{kind}.get_currently_attached", ref)
    device.unplug(session, ref)
    assert not operator.call(f"{kind}.get_currently_attached", ref)
    with pytest.raises(errors.DeviceAlreadyDetached):
        session.call(f"{kind}.unplug", ref)
    device.unplug(session, ref)


def test_unplug_that_the_guest_rejects_is_told(sim, session, operator):
    ref = make_vbd(session, running(session))
    vbd.plug(session, ref)
    sim.faults.add("VBD.unplug", ["DEVICE_DETACH_REJECTED", "VBD", "{0}", "busy"])
    with pytest.raises(errors.DeviceDetachRejected):
        vbd.unplug(session, ref)
    assert operator.call("VBD.get_currently_attached", ref)


def test_unknown_uuid_is_none(session):
    uuid = vm.get(session, make_vm(session)).uuid
    assert vm.find_by_uuid(session, uuid).uuid == uuid
    assert vm.find_by_uuid(session, uuid[::-1]) is None
