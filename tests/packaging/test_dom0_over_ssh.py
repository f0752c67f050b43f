# SPDX-License-Identifier: Apache-2.0
"""``dom0 check`` over a real sshd, and ``dom0 install`` seen through XAPI as well."""

from __future__ import annotations

import contextlib
from importlib import metadata

import pytest

from tests import fixtures
from tests.dom0 import interpreters
from tests.packaging import sshd_host
from xenapi_driver.cmd import dom0_check, dom0_findings, dom0_install

VERSION = metadata.version("xenapi-driver")
HOST = "root@127.0.0.1"


@pytest.fixture
def check(reached, ordered):
    programs = reached.root / "usr/bin"
    programs.mkdir(parents=True)
    for name in ("ssh", "iptables", "xenstore-read"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)

    def run(*options: object):
        words = options or reached.options()
        status, rows = ordered(dom0_check.Check, HOST, *words)
        return status, {row["Check"]: row for row in rows}

    return run


def test_a_host_without_plugins_is_looked_at_all_the_same(check, reached):
    before = sorted(reached.root.rglob("*"))
    status, found = check()
    assert status == 1
    assert list(found) == list(dom0_findings.CHECKS)
    assert found["plugins"]["State"] == "failed"
    assert "dom0 install" in found["plugins"]["Remedy"]
    assert "Python 3.6" in found["python"]["Seen"]
    assert found["images"]["State"] == "warning"
    assert found["ISO SR"]["State"] == "not checked"  # there is no XAPI there
    assert sorted(reached.root.rglob("*")) == before


def test_after_an_installation_the_files_are_as_delivered(check, reached, ordered):
    ordered(dom0_install.Install, HOST, *reached.options())
    status, found = check()
    assert (status, found["files"]["State"]) == (0, "ok")


def test_a_host_without_python(check, reached):
    reached.run_under("/usr/bin/no-such-python")
    status, found = check()
    assert status == 1
    assert found["python"]["State"] == "failed"
    assert "need Python 3.6 or later" in found["python"]["Seen"]
    rest = {row["State"] for name, row in found.items() if name != "python"}
    assert rest == {"not checked"}


def test_a_wrong_key(check, reached):
    status, found = check(*reached.options(reached.stranger))
    assert status == 1
    assert "Permission denied" in found["plugins"]["Seen"]
    assert found["plugins"]["Remedy"]


def test_the_version_is_asked_through_xapi_too(tmp_path, ordered, reached):
    fixtures.prepare_nova()
    with contextlib.ExitStack() as stack:
        rig = fixtures.Rig(tmp_path / "rig")
        stack.callback(rig.close)
        server = stack.enter_context(contextlib.closing(rig.sim.serve()))
        rig.set_option("connection_url", server.url)
        root = rig.sim.world.dom0.root
        inventory = root / "etc/xensource-inventory"
        inventory.write_text(f"INSTALLATION_UUID='{rig.sim.host_uuid}'\n")
        python = interpreters.wanted("3.6")
        host = sshd_host.SshdHost(tmp_path / "second", python, root)
        stack.callback(host.close)
        conf = ("--config-file", str(rig.nova_conf()))
        status, rows = ordered(dom0_install.Install, HOST, *host.options(), *conf)
        told = {row["What"]: row for row in rows}
        assert status == 0, rows
        assert told["answer over XAPI"]["State"] == "ok"
        assert f"package {VERSION}" in told["answer over XAPI"]["Remark"]
        # Another host than the configuration's pool has.
        status, rows = ordered(dom0_install.Install, HOST, *reached.options(), *conf)
        told = {row["What"]: row for row in rows}
        assert told["answer over XAPI"]["State"] == "not checked"
        assert "no such host" in told["answer over XAPI"]["Remark"]
