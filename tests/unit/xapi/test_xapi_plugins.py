# SPDX-License-Identifier: Apache-2.0
"""Our plugins' JSON, their errors, and which versions we accept."""

import json

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import errors, plugins, transport
from xenapi_driver.xapi.session import Session


@pytest.fixture
def session(fake):
    door = transport.InProcessTransport(fake.handle)
    with Session(lambda: door, "root", "secret", "test") as session:
        fake.calls.clear()
        yield session


def answers(fake, text, record=None):
    def run(_host, plugin, fn, args):
        if record is not None:
            record.append((plugin, fn, args))
        return text

    fake.methods["host.call_plugin"] = run


def refuses(fake, *description):
    def run(*_args):
        raise fake_xapi.Refused(*description)

    fake.methods["host.call_plugin"] = run


def test_request_and_answer_are_json(session, fake):
    seen = []
    answers(fake, '{"bytes": 5}', seen)
    value = plugins.call(session, "glance", "probe", {"n": 2**40}, long=False)
    assert value == {"bytes": 5}
    ((plugin, fn, args),) = seen
    assert (plugin, fn) == ("glance", "probe")
    assert json.loads(args["request"]) == {"n": 2**40}


def test_transfers_are_tasks(session, fake):
    def begin(*_args):
        fake.set_task("OpaqueRef:t", "success", result="<value>[1, 2]</value>")
        return "OpaqueRef:t"

    fake.methods["Async.host.call_plugin"] = begin
    assert plugins.call(session, "glance", "download_vhd", {}) == [1, 2]


def test_refusal_of_ours_is_a_plugin_error(session, fake):
    refuses(fake, "NO_SPACE", "/var/run/sr-mount/x")
    with pytest.raises(errors.PluginError) as caught:
        plugins.call(session, "glance", "download_vhd", {}, long=False)
    assert caught.value.code == "NO_SPACE"
    assert caught.value.params == ("/var/run/sr-mount/x",)
    assert "glance.download_vhd" in str(caught.value)


def test_xapis_own_refusal_stays_its_own(session, fake):
    refuses(fake, "HOST_OFFLINE", "OpaqueRef:host")
    with pytest.raises(errors.XapiFailure) as caught:
        plugins.call(session, "glance", "download_vhd", {}, long=False)
    assert caught.value.code == "HOST_OFFLINE"


def test_rubbish_is_a_plugin_error(session, fake):
    answers(fake, "hello")
    with pytest.raises(errors.PluginError, match="not JSON"):
        plugins.call(session, "glance", "download_vhd", {}, long=False)


@pytest.mark.parametrize("version", ["3.0", "3.7", "3.0.1"])
def test_same_major_version_is_accepted(session, fake, version):
    answers(fake, json.dumps({"version": version, "features": []}))
    assert plugins.check_version(session) == version


@pytest.mark.parametrize("version", ["2.1", "4.0"])
def test_other_major_version_names_both(session, fake, version):
    answers(fake, json.dumps({"version": version}))
    with pytest.raises(errors.PluginTooOld) as caught:
        plugins.check_version(session)
    assert version in str(caught.value)
    assert "3.0" in str(caught.value)


@pytest.mark.parametrize("text", ["S'2.1'\np0\n.", '"2.1"', "{}", "[]", "null"])
def test_plugin_of_the_retired_driver_is_too_old(session, fake, text):
    answers(fake, text)
    with pytest.raises(errors.PluginTooOld, match=r"/etc/xapi\.d/plugins"):
        plugins.check_version(session)


def test_missing_plugins_say_what_to_do(session, fake):
    refuses(fake, "XENAPI_MISSING_PLUGIN", "dom0_plugin_version")
    with pytest.raises(errors.PluginMissing, match="copy the plugins"):
        plugins.check_version(session)
