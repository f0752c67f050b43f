# SPDX-License-Identifier: Apache-2.0
"""Searches and idempotent verbs of the record modules."""

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import client, errors, vbd, vdi, vif, vm

VM = {
    "uuid": "u", "name_label": "instance-1", "power_state": "Running", "domid": "7",
    "resident_on": "OpaqueRef:host", "affinity": "OpaqueRef:NULL", "VBDs": [],
    "VIFs": ["OpaqueRef:vif"], "other_config": {"nova_uuid": "n"},
    "memory_static_max": "4294967296", "VCPUs_max": "2", "is_a_template": False,
    "is_a_snapshot": False, "is_control_domain": False,
    "guest_metrics": "OpaqueRef:NULL", "xenstore_data": {},
}  # fmt: skip


def records(fake, xapi_class, found):
    """Let searches in ``xapi_class`` find ``found``; return their expressions."""
    expressions = []

    def search(expression):
        expressions.append(expression)
        return found

    fake.methods[f"{xapi_class}.get_all_records_where"] = search
    return expressions


def refuses(fake, method, *description):
    def refuse(*_args):
        raise fake_xapi.Refused(*description)

    fake.methods[method] = refuse


def test_records_are_typed(session, fake):
    fake.methods["VM.get_record"] = VM
    record = vm.get(session, "OpaqueRef:vm")
    assert record.memory_static_max == 4 * 2**30
    assert record.domid == 7
    assert record.affinity is None
    assert record.resident_on == "OpaqueRef:host"
    assert record.nova_uuid == "n"


def test_vm_is_found_by_name_in_one_request(session, fake):
    expressions = records(fake, "VM", {"OpaqueRef:vm": VM})
    record = vm.find_by_name(session, "instance-1")
    assert record.ref == "OpaqueRef:vm"
    assert expressions == [
        'field "name__label" = "instance-1" and field "is_a_template" = "false"'
        ' and field "is_a_snapshot" = "false"'
    ]


def test_name_that_nobody_has(session, fake):
    records(fake, "VM", {})
    assert vm.find_by_name(session, "instance-1") is None


def test_name_that_two_have(session, fake):
    records(fake, "VM", {"OpaqueRef:1": VM, "OpaqueRef:2": VM})
    with pytest.raises(errors.NotUnique, match="instance-1"):
        vm.find_by_name(session, "instance-1")


def test_name_with_a_quote_cannot_widen_the_search(session, fake):
    expressions = records(fake, "VM", {"OpaqueRef:vm": VM})
    assert vm.find_by_name(session, '" or "a" = "a') is None
    assert '" or ' not in expressions[0]


def test_search_without_terms_is_true(session, fake):
    expressions = records(fake, "VM", {})
    client.matching(session, "VM", {})
    assert expressions == ["true"]


def test_ours_are_those_with_novas_key(session, fake):
    other = {**VM, "other_config": {}}
    records(fake, "VM", {"OpaqueRef:1": VM, "OpaqueRef:2": other})
    assert [record.ref for record in vm.ours(session)] == ["OpaqueRef:1"]


@pytest.mark.parametrize(
    ("verb", "method"),
    [
        (vm.destroy, "VM.destroy"),
        (vdi.destroy, "VDI.destroy"),
        (vbd.destroy, "VBD.destroy"),
        (vif.destroy, "VIF.destroy"),
    ],
)
def test_destroying_what_is_gone_is_quiet(session, fake, verb, method):
    refuses(fake, method, "HANDLE_INVALID", "X", "OpaqueRef:x")
    verb(session, "OpaqueRef:x")
    assert fake.names() == [method]


@pytest.mark.parametrize(
    ("verb", "method"), [(vbd.unplug, "VBD.unplug"), (vif.unplug, "VIF.unplug")]
)
def test_unplugging_what_is_out_is_quiet(session, fake, verb, method):
    refuses(fake, method, "DEVICE_ALREADY_DETACHED", "OpaqueRef:x")
    verb(session, "OpaqueRef:x")


def test_unplug_that_the_guest_rejects_is_told(session, fake):
    refuses(fake, "VBD.unplug", "DEVICE_DETACH_REJECTED", "VBD", "r", "busy")
    with pytest.raises(errors.DeviceDetachRejected):
        vbd.unplug(session, "OpaqueRef:x")


def test_unknown_uuid_is_none(session, fake):
    refuses(fake, "VM.get_by_uuid", "UUID_INVALID", "VM", "u")
    assert vm.find_by_uuid(session, "u") is None
