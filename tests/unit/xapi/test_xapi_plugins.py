# SPDX-License-Identifier: Apache-2.0
"""Our plugins' JSON, their errors, and which versions we accept."""

import json

import pytest

from xenapi_driver.xapi import errors, plugins

# Notes what it was asked for and answers as it was written to.
PLUGIN = """#!/usr/bin/python3
import os, sys, xmlrpc.client
(session, args), name = xmlrpc.client.loads(os.fsencode(sys.argv[1]))
with open(__file__ + ".asked", "w", encoding="utf-8") as file:
    file.write(name + chr(10) + args["request"])
answer = {answer!r}
text = xmlrpc.client.dumps((answer,), methodresponse=True)
sys.stdout.buffer.write(text.encode())
"""


def answers(sim, plugin, answer):
    """Put a plugin into dom0 that answers so; return where it notes its call."""
    file = sim.world.dom0.plugins / plugin
    file.write_text(PLUGIN.replace("{answer!r}", repr(answer)))
    file.chmod(0o755)
    return file.with_name(f"{plugin}.asked")


def says(sim, text, plugin="glance"):
    return answers(sim, plugin, {"Status": "Success", "Value": text})


def refuses(sim, *description, plugin="glance"):
    answers(sim, plugin, {"Status": "Failure", "ErrorDescription": list(description)})


def test_request_and_answer_are_json(sim, session):
    asked = says(sim, '{"bytes": 5}')
    value = plugins.call(session, "glance", "probe", {"n": 2**40}, long=False)
    assert value == {"bytes": 5}
    name, request = asked.read_text().splitlines()
    assert name == "probe"
    assert json.loads(request) == {"n": 2**40}


def test_transfers_are_tasks(sim, session, operator):
    says(sim, "[1, 2]")
    with session.requests.recording() as names:
        assert plugins.call(session, "glance", "download_vhd", {}) == [1, 2]
    assert names == ["Async.host.call_plugin", "task.destroy"]
    assert operator.call("task.get_all") == []


@pytest.mark.parametrize("long", [True, False])
def test_refusal_of_ours_is_a_plugin_error(sim, session, long):
    refuses(sim, "NO_SPACE", "/var/run/sr-mount/x")
    with pytest.raises(errors.PluginError) as caught:
        plugins.call(session, "glance", "download_vhd", {}, long=long)
    assert caught.value.code == "NO_SPACE"
    assert caught.value.params == ("/var/run/sr-mount/x",)
    assert "glance.download_vhd" in str(caught.value)


def test_xapis_own_refusal_stays_its_own(sim, session):
    sim.faults.add("host.call_plugin", ["HOST_OFFLINE", "{0}"])
    with pytest.raises(errors.XapiFailure) as caught:
        plugins.call(session, "glance", "download_vhd", {}, long=False)
    assert caught.value.code == "HOST_OFFLINE"
    assert caught.value.params == (session.host_ref,)


def test_rubbish_is_a_plugin_error(sim, session):
    says(sim, "hello")
    with pytest.raises(errors.PluginError, match="not JSON"):
        plugins.call(session, "glance", "download_vhd", {}, long=False)


@pytest.mark.parametrize("version", ["3.0", "3.7", "3.0.1"])
def test_same_major_version_is_accepted(sim, session, version):
    text = json.dumps({"version": version, "features": []})
    says(sim, text, "dom0_plugin_version")
    assert plugins.check_version(session) == version


@pytest.mark.parametrize("version", ["2.1", "4.0"])
def test_other_major_version_names_both(sim, session, version):
    says(sim, json.dumps({"version": version}), "dom0_plugin_version")
    with pytest.raises(errors.PluginTooOld) as caught:
        plugins.check_version(session)
    assert version in str(caught.value)
    assert "3.0" in str(caught.value)


@pytest.mark.parametrize("text", ["S'2.1'\np0\n.", '"2.1"', "{}", "[]", "null"])
def test_plugin_of_the_retired_driver_is_too_old(sim, session, text):
    says(sim, text, "dom0_plugin_version")
    with pytest.raises(errors.PluginTooOld, match=r"/etc/xapi\.d/plugins"):
        plugins.check_version(session)


def test_missing_plugins_say_what_to_do(session):
    with pytest.raises(errors.PluginMissing, match="copy the plugins"):
        plugins.check_version(session)
