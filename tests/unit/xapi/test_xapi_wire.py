# SPDX-License-Identifier: Apache-2.0
"""XAPI's XML-RPC: ints as text, results of tasks, rubbish."""

import xmlrpc.client

import pytest

from xenapi_driver.xapi import wire


def test_ints_go_out_as_text_and_bools_as_bools():
    args, method = xmlrpc.client.loads(
        wire.call("VM.create", ("ref", {"memory": 2**40, "on": True, "list": [1, 0.5]}))
    )
    assert method == "VM.create"
    assert args == (
        "ref",
        {"memory": "1099511627776", "on": True, "list": ["1", 0.5]},
    )


@pytest.mark.parametrize("value", [None, b"bytes", object(), {"a": None}])
def test_values_without_a_xapi_type_are_refused(value):
    with pytest.raises(TypeError):
        wire.call("VM.create", (value,))


def test_text_that_xml_cannot_carry_is_refused():
    with pytest.raises(ValueError, match="control characters"):
        wire.call("VM.set_name_label", ("ref", "a\x00b"))


def test_text_survives_the_round_trip():
    text = "<d\u00e9j\u00e0 & \u4e2d>\n\t\U0001f600"
    assert xmlrpc.client.loads(wire.call("x.y", (text,)))[0] == (text,)


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"{}", b"\xff\xfe"])
def test_rubbish_is_no_answer(body):
    with pytest.raises(wire.NotXmlRpc):
        wire.answer(body)


def test_dates_with_a_zone_are_read():
    body = (
        "<methodResponse><params><param><value><dateTime.iso8601>"
        "20260821T02:00:23Z</dateTime.iso8601></value></param></params>"
        "</methodResponse>"
    )
    assert str(wire.answer(body)) == "20260821T02:00:23Z"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As recorded from xapi 26.17, conformance scenario 13-tasks.
        ("<value>OpaqueRef:1</value>", "OpaqueRef:1"),
        ("<value></value>", ""),
        ("<value>66014150656</value>", "66014150656"),
        (
            "<value><array><data><value>OpaqueRef:1</value></data></array></value>",
            ["OpaqueRef:1"],
        ),
        ("<value>{&quot;a&quot;: 1}</value>", '{"a": 1}'),
        ("", ""),
        # What some old hosts stored.
        ("OpaqueRef:1", "OpaqueRef:1"),
    ],
)
def test_task_results_are_decoded(text, value):
    assert wire.task_result(text) == value
