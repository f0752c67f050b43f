# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 check`` through XAPI, and the doctor's word on the plugins."""

from __future__ import annotations

import os

import pytest

from tests import command_line
from tests.functional import doctoring
from xenapi_driver.cmd import dom0_check, dom0_findings, plugin_tree
from xenapi_driver.dom0 import tree


@pytest.fixture
def root(secured):
    """The host's dom0, whose programs are its own."""
    folder = secured.sim.world.dom0.root
    (folder / "usr/bin").mkdir(parents=True)
    for name in ("ssh", "iptables", "xenstore-read"):
        program = folder / "usr/bin" / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    return folder


@pytest.fixture
def check(secured, root):
    """Check the host; return the status and each check's rows."""

    def run() -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
        status, rows = command_line.run(
            dom0_check.Check, "--config-file", secured.nova_conf()
        )
        found: dict[str, list[tuple[str, str, str]]] = {}
        for row in rows:
            told = (row["State"], row["Seen"], row["Remedy"])
            found.setdefault(row["Check"], []).append(told)
        return status, found

    return run


def test_every_check_is_made_in_its_order(check):
    _, found = check()
    assert list(found) == list(dom0_findings.CHECKS)
    assert found["plugins"][0][0] == "ok"
    assert "Python 3." in found["python"][0][1]


def test_what_is_no_failure_has_its_remedy(check):
    _, found = check()
    for rows in found.values():
        for state, seen, remedy in rows:
            assert seen.endswith(".")
            if state == "warning":
                assert remedy.endswith(".")


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, whose files plugins are")
def test_delivered_files_are_in_order(check, root):
    # The embedded host has of the scripts what is in the plugins' folder.
    for entry in tree.entries(plugin_tree.find(), "1"):
        if not entry.plugin:
            file = root / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.content)
            file.chmod(entry.mode)
    status, found = check()
    assert [state for state, *_ in found["files"]] == ["ok"]
    assert status == 0


def test_damaged_files_are_named(check, root):
    plugins = root / "etc/xapi.d/plugins"
    (plugins / "glance").chmod(0o644)
    (plugins / "glance.py").unlink()
    (plugins / "xenapi_dom0/chain.py").unlink()
    (plugins / "xenapi_dom0/vhd.py").write_text("# other\n")
    status, found = check()
    assert status == 1
    told = " ".join(seen for _state, seen, _remedy in found["files"])
    assert "ot executable: /etc/xapi.d/plugins/glance." in told
    assert "under the name with .py: /etc/xapi.d/plugins/glance.py." in told
    assert "issing: /etc/xapi.d/plugins/xenapi_dom0/chain.py." in told
    assert "/etc/xapi.d/plugins/xenapi_dom0/vhd.py" in told
    assert all("dom0 install" in row[2] for row in found["files"])


def test_no_plugins(check, root):
    (root / "etc/xapi.d/plugins/dom0_plugin_version").unlink()
    status, found = check()
    assert status == 1
    assert found["plugins"][0][0] == "failed"
    assert {rows[0][0] for name, rows in found.items() if name != "plugins"} == {
        "not checked"
    }


def test_images_on_the_driver_s_sr(check, root, secured):
    _, found = check()
    assert found["images"][0][0] in ("ok", "warning")
    (root / "images").rmdir()
    _, found = check()
    state, seen, remedy = found["images"][0]
    assert state == "warning"
    assert "cannot be resized" in seen
    assert f"/run/sr-mount/{secured.sim.default_sr_uuid}/os-images" in remedy


def test_plugins_of_another_release_are_told_by_both(check, root, secured):
    (root / "etc/xapi.d/plugins/xenapi_dom0/RELEASE").write_text("0.0.0\n")
    _, found = check()
    told = doctoring.consult(secured.nova_conf())
    assert told.status == 0
    [row] = told.of("plugins", "warning")
    assert found["plugins"] == [("warning", row["Seen"], row["Remedy"])]
    assert "of xenapi-driver 0.0.0" in row["Seen"]


def test_no_configuration(tmp_path):
    file = tmp_path / "nova.conf"
    file.write_text("")
    status, rows = command_line.run(dom0_check.Check, "--config-file", file)
    assert status == 1
    assert "connection_url" in rows[1]["Seen"]
    assert rows[1]["Check"] == "plugins"
