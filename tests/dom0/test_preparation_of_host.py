# SPDX-License-Identifier: Apache-2.0
"""``preparation.prepare``: what it makes, and what it leaves alone."""

from __future__ import annotations

import os

import pytest

from tests.dom0.scratch_host import PluginFailed

# Keeps its rules in a file, one a line, as iptables -S shows them.
IPTABLES = """#!/bin/sh
rules={root}/rules
shift  # -w
case $1 in
-S) cat $rules ;;
-C) shift; grep -qxF -- "-A $*" $rules ;;
-I) shift; echo "-A $*" >> $rules ;;
esac
"""
OVS_VSCTL = """#!/bin/sh
echo "$@" >> {root}/asked
case $1 in
get-manager) cat {root}/managers ;;
*) echo ptcp:6640 >> {root}/managers ;;
esac
"""


@pytest.fixture
def quiet(old_host):
    """A host whose programs are its own."""
    for name, script in (
        ("iptables", IPTABLES),
        ("ovs-vsctl", OVS_VSCTL),
        ("service", '#!/bin/sh\necho "$@" >> {root}/saved\n'),
    ):
        old_host.wrap(name, script.format(root=old_host.root))
    (old_host.root / "rules").write_text("-P INPUT ACCEPT\n-N RH-Firewall-1-INPUT\n")
    (old_host.root / "managers").write_text("ssl:10.0.0.9:6640\n")
    return old_host


def prepare(host, *parts, **request):
    request = {"parts": list(parts), "sr_path": host.sr_path, **request}
    rows = host.call("preparation", "prepare", {**request, "host_uuid": uuid(host)})
    return {part: (state, remark) for part, state, remark in rows}


def uuid(host):
    return host.sim.host_uuid


def test_under_every_python(host):
    assert prepare(host, "images")["images"][0] == "done"
    assert prepare(host, "images")["images"][0] == "unchanged"
    assert (host.root / "images").resolve() == host.sr / "os-images"


@pytest.mark.parametrize("before", ["missing", "empty folder"])
def test_images_become_a_link_to_the_sr(quiet, before):
    place = quiet.root / "images"
    if before == "missing":
        place.rmdir()
    state, remark = prepare(quiet, "images")["images"]
    assert state == "done"
    assert remark.endswith(f"/run/sr-mount/{quiet.sr_uuid}/os-images")
    assert place.is_symlink()
    (place / "file").write_text("x")
    assert (quiet.sr / "os-images/file").exists()
    assert prepare(quiet, "images") == {"images": ("unchanged", "")}


def test_what_is_in_the_way_stays(quiet):
    place = quiet.root / "images"
    place.rmdir()
    place.symlink_to("/dev/shm")
    assert "another disk" in prepare(quiet, "images")["images"][1]
    place.unlink()
    place.symlink_to("/no/such/folder")
    assert "leads nowhere" in prepare(quiet, "images")["images"][1]
    place.unlink()
    place.write_text("precious")
    assert prepare(quiet, "images")["images"][0] == "refused"
    assert place.read_text() == "precious"


def test_without_a_path_the_default_sr_is_taken(quiet):
    assert prepare(quiet, "images", sr_path=None)["images"][0] == "done"


def test_the_folder_of_kernels(quiet):
    folder = quiet.root / "var/lib/xcp/guest"
    folder.rmdir()
    state, _ = prepare(quiet, "kernels")["kernels"]
    assert state == "done"
    assert folder.is_dir() or (quiet.root / "boot/guest").is_symlink()
    assert prepare(quiet, "kernels") == {"kernels": ("unchanged", "")}


def test_open_vswitch_listens_beside_its_other_managers(quiet):
    assert prepare(quiet, "ovsdb")["ovsdb"][0] == "done"
    asked = (quiet.root / "asked").read_text()
    assert "set-manager" not in asked
    assert "add Open_vSwitch . manager_options" in asked
    assert prepare(quiet, "ovsdb")["ovsdb"] == ("unchanged", "")


def test_the_firewall_opens_for_one_address(quiet):
    assert prepare(quiet, "firewall")["firewall"][0] == "refused"
    assert prepare(quiet, "firewall", source="10.0.0.5")["firewall"][0] == "done"
    rules = (quiet.root / "rules").read_text()
    rule = "-A RH-Firewall-1-INPUT -s 10.0.0.5/32 -p tcp -m tcp --dport 6640 -j ACCEPT"
    assert rules.count(rule) == 1
    assert (quiet.root / "saved").read_text() == "iptables save\n"
    again = prepare(quiet, "firewall", source="10.0.0.5")
    assert again == {"firewall": ("unchanged", "")}
    assert (quiet.root / "rules").read_text() == rules


def test_bridges_may_be_loaded(quiet):
    folder = quiet.root / "etc/modprobe.d"
    folder.mkdir()
    (folder / "blacklist-bridge.conf").write_text("blacklist bridge\n")
    (folder / "other.conf").write_text("")
    assert prepare(quiet, "bridges")["bridges"][0] == "done"
    assert sorted(os.listdir(folder)) == ["blacklist-bridge.conf.off", "other.conf"]
    assert prepare(quiet, "bridges") == {"bridges": ("unchanged", "")}


def test_one_part_s_trouble_is_not_the_others(quiet):
    quiet.wrap("ovs-vsctl", "#!/bin/sh\necho no database >&2\nexit 1\n")
    found = prepare(quiet, "ovsdb", "images")
    assert found["ovsdb"][0] == "refused"
    assert "no database" in found["ovsdb"][1]
    assert found["images"][0] == "done"


@pytest.mark.parametrize(
    "request_",
    [
        {"parts": ["x"]},
        {"parts": "images"},
        {"parts": ["images"] * 9},
        {"parts": [], "source": "10.0.0.0/8; id"},
        {"parts": [], "sr_path": "/etc"},
        {"parts": [], "more": 1},
        {},
    ],
)
def test_bad_requests_are_refused(quiet, request_):
    with pytest.raises(PluginFailed) as caught:
        quiet.call("preparation", "prepare", request_)
    assert caught.value.code == "BAD_ARGUMENT"


def test_a_scratch_root_never_reaches_the_machine_below_it(old_host):
    # The machine has these programs; the host in the folder has none.
    found = prepare(old_host, "ovsdb", "firewall", source="10.0.0.5")
    assert {state for state, _remark in found.values()} == {"refused"}
    assert all("COMMAND_MISSING" in remark for _state, remark in found.values())
