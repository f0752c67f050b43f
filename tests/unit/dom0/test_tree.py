# SPDX-License-Identifier: Apache-2.0
"""What a host gets is worked out from the folder by rules, not by names."""

from __future__ import annotations

import sys

import pytest

from xenapi_driver.cmd import plugin_tree
from xenapi_driver.dom0 import tree

# What XCP-ng and XenServer ship in the same folder.
SHIPPED = {
    *("echo", "disk-space", "firewall-port", "extauth-hook", "install-supp-pack"),
    *("openvswitch-config-update", "perfmon", "power-on-host", "updater.py"),
    *("smartctl.py", "raid.py", "lsblk.py", "lvm.py", "zfs.py", "netdata.py"),
    *("hyperthreading.py", "ipmitool.py", "service.py", "sdncontroller.py"),
}


@pytest.fixture
def folder(tmp_path):
    """A small folder of scripts, with modes that say nothing."""
    for path, content in {
        "etc/xapi.d/plugins/glance": "#!/usr/bin/python3\n",
        "etc/xapi.d/plugins/xenapi_dom0/__init__.py": "",
        "etc/xapi.d/plugins/xenapi_dom0/__pycache__/a.cpython-36.pyc": "x",
        "etc/xapi.d/plugins/glance~": "#!/usr/bin/python3\n",
        "etc/xapi.d/vif-hotplug": "#!/usr/bin/python3\n",
        "etc/cron.d/logs": "* * * * * root true\n",
        "usr/lib/systemd/system/one.service": "[Unit]\n",
        "packaging/a.spec": "Name: a\n",
        "README.rst": "words",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o600)
    return tmp_path


def laid(folder) -> dict[str, tree.Entry]:
    return {entry.path: entry for entry in tree.entries(folder, "1.2.3")}


def test_everything_below_etc_and_usr_and_nothing_else(folder):
    assert list(laid(folder)) == [
        "etc/cron.d/logs",
        "etc/xapi.d/plugins/glance",
        "etc/xapi.d/plugins/glance.py",
        "etc/xapi.d/plugins/xenapi_dom0/RELEASE",
        "etc/xapi.d/plugins/xenapi_dom0/__init__.py",
        "etc/xapi.d/vif-hotplug",
        "usr/lib/systemd/system/one.service",
    ]


def test_modes_follow_from_the_first_line(folder):
    modes = {entry.mode for entry in laid(folder).values() if "RELEASE" in entry.path}
    assert modes == {0o644}
    executable = {path for path, entry in laid(folder).items() if entry.mode == 0o755}
    assert executable == {
        "etc/xapi.d/plugins/glance",
        "etc/xapi.d/plugins/glance.py",
        "etc/xapi.d/vif-hotplug",
    }


def test_only_plugins_have_twins(folder):
    twins = {path: entry.twin_of for path, entry in laid(folder).items()}
    assert twins["etc/xapi.d/plugins/glance.py"] == "etc/xapi.d/plugins/glance"
    assert sum(map(bool, twins.values())) == 1
    assert tree.plugin_names(tree.entries(folder, "1.2.3")) == ["glance"]


def test_what_an_operator_may_change(folder):
    assert {path for path, entry in laid(folder).items() if entry.config} == {
        "etc/cron.d/logs",
        "etc/xapi.d/vif-hotplug",
    }


def test_release_says_the_version(folder):
    assert laid(folder)[tree.RELEASE].content == b"1.2.3\n"


def test_a_link_is_refused(folder):
    (folder / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(tree.TreeUnfit, match="etc/passwd is neither"):
        laid(folder)


def test_a_twin_made_by_hand_is_refused(folder):
    (folder / "etc/xapi.d/plugins/glance.py").write_text("")
    with pytest.raises(tree.TreeUnfit, match=r"glance\.py"):
        laid(folder)


@pytest.mark.parametrize("version", ["", "1.0-1", "../1", "1 2", "-1", "1\n"])
def test_a_version_that_no_package_can_bear_is_refused(folder, version):
    with pytest.raises(tree.TreeUnfit, match="version"):
        tree.entries(folder, version)


def test_a_folder_without_plugins_is_refused(tmp_path):
    (tmp_path / "etc").mkdir()
    with pytest.raises(tree.TreeUnfit, match="no plugins"):
        laid(tmp_path)


def test_our_names_disturb_neither_the_host_s_plugins_nor_python():
    names = set(tree.plugin_names(tree.entries(plugin_tree.find(), "1")))
    assert "glance" in names
    assert not SHIPPED & (names | {f"{name}.py" for name in names})
    # The folder is the first place from which a plugin imports, its twins included.
    assert not names & set(sys.stdlib_module_names)


def test_what_is_outside_of_the_plugins_folder_says_whose_it_is():
    # By this a later release knows it from a file of somebody else.
    ours = (b"xenapi_dom0", b"xenapi-driver")
    strange = [
        entry.path
        for entry in tree.entries(plugin_tree.find(), "1")
        if not entry.plugin and not any(mark in entry.content for mark in ours)
    ]
    assert strange == []


def test_our_preset_names_our_units():
    laid = tree.entries(plugin_tree.find(), "1")
    (preset,) = [entry for entry in laid if entry.path.endswith(".preset")]
    lines = preset.content.decode().splitlines()
    named = {line.split()[1] for line in lines if line and line[0] != "#"}
    assert named == set(tree.units(laid)) != set()
