# SPDX-License-Identifier: Apache-2.0
"""host.call_plugin: real processes, and other calls go on meanwhile."""

import time

import pytest

from tests.sim.clients import Refused, XmlClient, vm_record, wait_until
from xenapi_driver.sim import Simulator

PLUGIN = """#!/usr/bin/python3
import os
import sys
import time
import xmlrpc.client

(session, args), method = xmlrpc.client.loads(os.fsencode(sys.argv[1]))
if method == "slow":
    time.sleep(2)
answer = {"Status": "Success", "Value": args.get("msg", "hello")}
if method == "refuse":
    answer = {"Status": "Failure", "ErrorDescription": ["MY_ERROR", "p1", "p2"]}
text = xmlrpc.client.dumps((answer,), methodresponse=True)
sys.stdout.buffer.write(text.encode())
"""


@pytest.fixture
def client(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "echo").write_text(PLUGIN)
    (plugins / "echo").chmod(0o755)
    simulator = Simulator(tmp_path / "state", plugins_dir=plugins)
    yield XmlClient(simulator.handle)
    simulator.close()


@pytest.fixture
def host(client):
    return client.call("host.get_all")[0]


def test_plugin_answers(client, host):
    text = "d\u00e9j\u00e0 <&>"
    answer = client.call("host.call_plugin", host, "echo", "main", {"msg": text})
    assert answer == text


def test_plugin_answers_in_a_task(client, host):
    record = client.task("Async.host.call_plugin", host, "echo", "main", {"msg": "hi"})
    assert record["result"] == "<value>hi</value>"


@pytest.mark.parametrize(
    ("plugin", "function", "expected"),
    [
        ("echo", "refuse", ["MY_ERROR", "p1", "p2"]),
        ("nope", "main", ["XENAPI_MISSING_PLUGIN", "nope"]),
        ("../echo", "main", ["XENAPI_MISSING_PLUGIN", "../echo"]),
    ],
)
def test_plugin_failures(client, host, plugin, function, expected):
    with pytest.raises(Refused) as caught:
        client.call("host.call_plugin", host, plugin, function, {})
    assert caught.value.args[0] == expected


def test_arguments_are_strings(client, host):
    with pytest.raises(Refused) as caught:
        client.call("host.call_plugin", host, "echo", "main", {"a": 1})
    assert caught.value.code == "INTERNAL_ERROR"


def test_unknown_host(client):
    with pytest.raises(Refused) as caught:
        client.call("host.call_plugin", "OpaqueRef:NULL", "echo", "main", {})
    assert caught.value.args[0] == ["HOST_OFFLINE", "OpaqueRef:NULL"]


def test_slow_plugin_does_not_hold_others_up(client, host):
    task = client.call("Async.host.call_plugin", host, "echo", "slow", {})
    begin = time.monotonic()
    client.call("VM.get_all_records")
    assert time.monotonic() - begin < 1
    assert client.call("task.get_status", task) == "pending"
    wait_until(lambda: client.call("task.get_status", task) != "pending", 10)
    assert client.call("task.get_status", task) == "success"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("struct", ["INTERNAL_ERROR"]),
        ("bare", ["INTERNAL_ERROR"]),
        ("failure", ["MY_ERROR", "p1", "p2"]),
        ("unknown", ["UNKNOWN_PLUGIN_FUNCTION", "unknown"]),
        ("boom", ["XENAPI_PLUGIN_FAILURE", "non-zero exit", ""]),
        ("exit3", ["XENAPI_PLUGIN_FAILURE", "non-zero exit", "", "bad things\n"]),
        ("garbage", ["XENAPI_PLUGIN_FAILURE", "failed to parse plugin output"]),
        ("fault", ["XENAPI_PLUGIN_FAILURE", "fault", "7", "a fault"]),
    ],
)
def test_the_plugin_that_every_host_has_goes_wrong_on_demand(local, function, expected):
    host = local.call("host.get_all")[0]
    with pytest.raises(Refused) as caught:
        local.call("host.call_plugin", host, "echo", function, {})
    assert caught.value.args[0][: len(expected)] == expected


def test_the_plugin_that_every_host_has_answers(local):
    host = local.call("host.get_all")[0]
    for args, answer in (({}, "hello"), ({"msg": ""}, ""), ({"msg": "x"}, "x")):
        assert local.call("host.call_plugin", host, "echo", "main", args) == answer


def test_plugin_by_its_guest(local):
    vm = local.call("VM.create", vm_record())
    args = (vm, "echo", "main", {"msg": "x"})
    with pytest.raises(Refused) as caught:
        local.call("VM.call_host_plugin", *args)
    assert caught.value.args[0] == ["VM_BAD_POWER_STATE", vm, "Running", "Halted"]
    local.call("VM.start", vm, False, False)
    assert local.call("VM.call_host_plugin", *args) == "x"


def test_extension_that_is_not_there(local):
    host = local.call("host.get_all")[0]
    for text, code in (
        ("nope", "INTERNAL_ERROR"),
        ('{"method": "no.such", "params": []}', "MESSAGE_METHOD_UNKNOWN"),
    ):
        with pytest.raises(Refused) as caught:
            local.call("host.call_extension", host, text)
        assert caught.value.code == code
