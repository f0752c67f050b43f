# SPDX-License-Identifier: Apache-2.0
"""The filter language of get_all_records_where and get_all_where."""

import pytest

from tests.sim.clients import Refused, vm_record
from xenapi_driver.sim.expression import column

MINE = ' and field "is_a_template" = "false" and field "is_control_domain" = "false"'


@pytest.fixture
def three(local):
    """VMs named one, two and ``say "three\\"``; return a function that filters."""
    for number, name in enumerate(("one", "two", 'say "three\\"'), 1):
        local.call("VM.create", vm_record(name_label=name, user_version=str(number)))

    def names(expression):
        found = local.call("VM.get_all_records_where", f"({expression}){MINE}")
        names = {record["name_label"] for record in found.values()}
        refs = local.call("VM.get_all_where", f"({expression}){MINE}")
        assert sorted(refs) == sorted(found)
        return names - {"nova-compute"}

    return names


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('field "name__label" = "one"', {"one"}),
        ('field "name__label"="one" or field "name__label"="two"', {"one", "two"}),
        ('not (field "name__label"="two") and "one"=field "name__label"', {"one"}),
        ('not field "name__label" = "one" and not field "user_version" = "2"', {3}),
        ('true or true and field "user_version" = "2"', {"one", "two", 3}),
        ('(true or true) and field "user_version" = "2"', {"two"}),
        ("not not true and not false", {"one", "two", 3}),
        ("true and false", set()),
        ('"a" = "a"', {"one", "two", 3}),
        ('"a" = "b"', set()),
        ('field "user_version" = "3"', {3}),
        ('field "name__label" = "say \\"three\\\\\\""', {3}),
        ('\n\tfield\n"name__label"\t=\r"one" ', {"one"}),
        ('field "power_state" = "Halted"', {"one", "two", 3}),
        ('field "power_state" = "halted"', set()),
        ('field "memory__static_max" = "1073741824"', {"one", "two", 3}),
        ('field "resident_on" = "OpaqueRef:NULL"', {"one", "two", 3}),
        ('field "HVM__shadow_multiplier" = "1"', {"one", "two", 3}),
        ('field "uuid" = field "uuid"', {"one", "two", 3}),
        # What is not asked is not wrong.
        ('false and field "nonsense" = ""', set()),
    ],
)
def test_vms_are_filtered(three, expression, expected):
    named = {'say "three\\"' if name == 3 else name for name in expected}
    assert three(expression) == named


def test_an_object_is_found_by_its_reference(local):
    (pool,) = local.call("pool.get_all")
    assert local.call("pool.get_all_where", f'field "_ref" = "{pool}"') == [pool]


def test_a_pool_spells_its_name_like_its_record(local):
    assert len(local.call("pool.get_all_where", 'field "name_label" = ""')) == 1


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "field =",
        'field "name__label"',
        'field name__label = "one"',
        "field 'name__label' = 'one'",
        "true true",
        "(true",
        "true)",
        "not",
        "true and",
        "TRUE",
        "true = true",
        'field "name__label" == "one"',
        'field "name__label" = "one',
        'field "name__label" = "a\\n"',
        'field "user_version" > "1"',
    ],
)
def test_what_is_no_expression_is_refused(client, expression):
    with pytest.raises(Refused) as refusal:
        client.call("VM.get_all_records_where", expression)
    assert refusal.value.code == "INVALID_VALUE"
    assert refusal.value.params[-1] == expression


@pytest.mark.parametrize("field", ["nonsense", "name_label", "tags", "other_config"])
def test_a_field_that_cannot_be_compared_is_an_internal_error(client, field):
    with pytest.raises(Refused) as refusal:
        client.call("VM.get_all_records_where", f'field "{field}" = "x"')
    assert refusal.value.code == "INTERNAL_ERROR"
    both = f'field "{field}" = "x" and field "uuid" = "nobody"'
    with pytest.raises(Refused):
        client.call("VM.get_all_where", both)
    # Where there is no object, nothing is compared.
    assert client.call("VMSS.get_all_records_where", f'field "{field}" = "x"') == {}


def test_columns_are_spelt_as_in_the_database():
    assert column("VM", "name_label") == "name__label"
    assert column("VM", "actions_after_reboot") == "actions__after_reboot"
    assert column("VM", "power_state") == "power_state"
    assert column("VM_guest_metrics", "PV_drivers_version") == "PV_drivers_version"
