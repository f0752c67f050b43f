# SPDX-License-Identifier: Apache-2.0
"""Our plugins' JSON, their errors, and which versions we accept."""

import ast
import base64
import json
import threading
import zlib

import pytest

from tests.fixtures import PLUGINS
from xenapi_driver.xapi import errors, plugin_errors, plugins

# Notes what it was asked for and answers as it was written to.
PLUGIN = """#!/usr/bin/python3
import os, sys, xmlrpc.client
(session, args), name = xmlrpc.client.loads(os.fsencode(sys.argv[1]))
with open(__file__ + ".asked", "w", encoding="utf-8") as file:
    file.write(name + chr(10) + args.get("request", args.get("packed", "")))
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


@pytest.mark.parametrize("version", ["3.1", "3.7", "3.1.1"])
def test_same_major_version_is_accepted(sim, session, version):
    text = json.dumps({"version": version, "features": []})
    says(sim, text, "dom0_plugin_version")
    assert plugins.check_version(session).version == version


def test_a_host_tells_what_its_plugins_are(sim, session):
    said = {
        "version": "3.1",
        "features": ["glance.download_vhd"],
        "python": "3.6.15",
        "package": "1.2.3",
    }
    says(sim, json.dumps(said), "dom0_plugin_version")
    found = plugins.check_version(session)
    assert (found.python, found.package) == ("3.6.15", "1.2.3")
    assert found.features == {"glance.download_vhd"}
    # From a source tree they are of no package.
    says(sim, json.dumps({**said, "package": None}), "dom0_plugin_version")
    assert plugins.check_version(session).package == ""


@pytest.mark.parametrize("version", ["2.1", "3.0", "4.0"])
def test_other_major_version_names_both(sim, session, version):
    says(sim, json.dumps({"version": version}), "dom0_plugin_version")
    with pytest.raises(errors.PluginTooOld) as caught:
        plugins.check_version(session)
    assert version in str(caught.value)
    assert "3.1" in str(caught.value)


@pytest.mark.parametrize("text", ["S'2.1'\np0\n.", '"2.1"', "{}", "[]", "null"])
def test_plugin_of_the_retired_driver_is_too_old(sim, session, text):
    says(sim, text, "dom0_plugin_version")
    with pytest.raises(errors.PluginTooOld, match=r"/etc/xapi\.d/plugins"):
        plugins.check_version(session)


def test_missing_plugins_say_what_to_do(session):
    with pytest.raises(errors.PluginMissing, match="dom0 install root@HOST"):
        plugins.check_version(session)


def test_every_code_of_the_plugins_has_its_exception():
    file = PLUGINS / "xenapi_dom0/failures.py"
    codes = {
        ast.literal_eval(node.value)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
    }
    assert codes == set(plugins.CODES)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("BUSY", plugin_errors.PluginBusy),
        ("COMMAND_MISSING", plugin_errors.Dom0Lacks),
        ("AGENT_TIMEOUT", plugin_errors.AgentSilent),
        ("IMAGE_CORRUPT", plugin_errors.ImageFailed),
    ],
)
def test_a_code_becomes_its_exception(sim, session, code, kind):
    refuses(sim, code, "one", "two")
    with pytest.raises(kind) as caught:
        plugins.call(session, "glance", "fn", {}, long=False)
    assert type(caught.value) is kind
    assert caught.value.params == ("one", "two")


def test_a_long_request_is_packed(sim, session):
    asked = says(sim, "1")
    request = {"rules": "-A chain -j ACCEPT\n" * 20000}
    assert plugins.call(session, "glance", "probe", request) == 1
    packed = asked.read_text().splitlines()[1]
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == request


def test_a_request_that_no_host_takes_is_refused_before_it_is_sent(session):
    noise = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(99999))
    with session.requests.recording() as names:  # noqa: SIM117
        with pytest.raises(plugin_errors.BadPluginRequest, match="122880"):
            plugins.call(session, "glance", "probe", {"noise": noise})
    assert names == []


# Tells progress as our plugins do, through their own library, and waits.
TELLING = """#!/usr/bin/python3
from xenapi_dom0 import progress, serve
import os, time
def fn(request):
    with progress.Report(request) as report:
        report.at(0.5)
        while not os.path.exists(request["until"]):
            time.sleep(0.05)
    return "done"
serve.run({"fn": fn})
"""


def test_progress_comes_with_the_events_at_no_request(place, tmp_path):
    sim, session = place
    file = sim.world.dom0.plugins / "telling"
    file.write_text(TELLING)
    file.chmod(0o755)
    library = sim.world.dom0.plugins / "xenapi_dom0"
    if not library.exists():
        library.symlink_to(PLUGINS / "xenapi_dom0")
    until = tmp_path / "until"
    told = []

    def watch(fraction):
        told.append(fraction)
        if fraction == 0.5:
            until.touch()

    # Should nothing be told, the plugin must not wait for ever.
    late = threading.Timer(20, until.touch)
    late.start()
    with session.requests.recording() as names:
        request = {"until": str(until)}
        value = plugins.call(session, "telling", "fn", request, progress=watch)
    late.cancel()
    assert value == "done"
    assert 0.5 in told
    assert names == ["Async.host.call_plugin", "task.destroy"]


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [
        (1, "need Python 3.6 or later as /usr/bin/python3", "do not start"),
        (127, "/usr/bin/python3: No such file or directory", "do not start"),
        (1, "", "they said nothing"),
    ],
)
def test_a_dom0_without_the_python_is_told_in_one_sentence(
    sim, session, code, stderr, words
):
    file = sim.world.dom0.plugins / "dom0_plugin_version"
    file.write_text(f"#!/bin/sh\necho '{stderr}' >&2\nexit {code}\n")
    file.chmod(0o755)
    with pytest.raises(plugin_errors.PluginUnfit, match=words) as caught:
        plugins.check_version(session)
    assert "Python 3.6 or later" in str(caught.value)
    assert "\n" not in str(caught.value)
