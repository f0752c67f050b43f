# SPDX-License-Identifier: Apache-2.0
"""Debian's ``fence_xenapi``, with which a cluster turns servers off and on."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.clients.conftest import absent

NAME = "cluster-node-1"
WHICH = f"--plug={NAME}"


@pytest.fixture
def vm(any_host):
    """A running VM, made of a template."""
    with any_host.look() as client:
        template = client.call("VM.get_by_name_label", "Other install media")[0]
        ref = client.call("VM.clone", template, NAME)
        client.call("VM.provision", ref)
        client.call("VM.start", ref, False, False)
        return client.call("VM.get_record", ref)


class Agent:
    """The agent, told by options; its calls return how it ended."""

    def __init__(self, path, host):
        self._path = path
        self._url = host.url
        self._environ = dict(os.environ)
        if host.certificate is not None:
            self._environ["SSL_CERT_FILE"] = str(host.certificate)

    def agent(self, told, *options):
        return subprocess.run(
            [self._path, *options],
            env=self._environ,
            input=told,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def __call__(self, action, *options, password="secret"):
        login = ["--username=root", f"--password={password}"]
        where = f"--session-url={self._url}"
        return self.agent("", where, *login, f"--action={action}", *options)


@pytest.fixture
def fence(any_host):
    search = os.environ.get("PATH", "") + ":/usr/sbin"
    path = shutil.which("fence_xenapi", path=search)
    if path is None:
        absent("no fence_xenapi here (apt-get install fence-agents)")
    return Agent(path, any_host)


def power_state(host, vm):
    return host.record("VM", uuid=vm["uuid"])["power_state"]


def test_list_names_servers_only(fence, any_host, vm):
    """Templates and the control domain can not be fenced."""
    done = fence("list")
    assert done.returncode == 0, done.stderr
    listed = {line.split(",")[0] for line in done.stdout.splitlines()}
    servers = any_host.records("VM", is_a_template=False, is_control_domain=False)
    assert {record["uuid"] for record in servers} == listed
    assert vm["uuid"] in listed


def test_monitor(fence):
    assert fence("monitor").returncode == 0


def test_off_and_on(fence, any_host, vm):
    status = fence("status", WHICH)
    assert (status.returncode, status.stdout.strip()) == (0, "Status: ON")
    done = fence("off", WHICH)
    assert done.returncode == 0, done.stderr
    assert power_state(any_host, vm) == "Halted"
    # 2 is how an agent says "off".
    status = fence("status", WHICH)
    assert (status.returncode, status.stdout.strip()) == (2, "Status: OFF")
    assert fence("off", WHICH).returncode == 0
    assert fence("on", WHICH).returncode == 0
    assert power_state(any_host, vm) == "Running"


def test_told_on_standard_input(fence, any_host, vm):
    """As Pacemaker's fencer tells it."""
    lines = ["username=root", "password=secret", f"session_url={any_host.url}"]
    done = fence.agent("\n".join([*lines, "action=off", f"port={NAME}"]))
    assert done.returncode == 0, done.stderr
    assert power_state(any_host, vm) == "Halted"


def test_reboot_is_a_new_domain(fence, any_host, vm):
    before = any_host.record("VM", uuid=vm["uuid"])["domid"]
    done = fence("reboot", WHICH)
    assert done.returncode == 0, done.stderr
    after = any_host.record("VM", uuid=vm["uuid"])
    assert after["power_state"] == "Running"
    assert after["domid"] != before


def test_wrong_name_or_password_is_no_success(fence, any_host, vm):
    done = fence("off", "--plug=no-such-server")
    assert done.returncode != 0
    done = fence("off", WHICH, password="wrong")
    assert done.returncode == 1
    assert "SESSION_AUTHENTICATION_FAILED" in done.stdout
    assert power_state(any_host, vm) == "Running"
