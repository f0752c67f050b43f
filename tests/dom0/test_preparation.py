# SPDX-License-Identifier: Apache-2.0
"""The plugin ``preparation``: facts about a dom0, none of them judged."""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.dom0.scratch_host import PluginFailed

TABLE = "  sl  local_address rem_address   st\n   0: {}:{:04X} 00000000:0000 {} 0\n"


@pytest.fixture
def quiet(old_host):
    """A host whose programs are its own: nothing of this machine is asked."""
    return without_programs(old_host)


def without_programs(host):
    for name in ("ssh", "iptables", "xenstore-read", "rpm"):
        host.wrap(name, "#!/bin/sh\nexit 1\n")
    return host


def facts(host, **request):
    request.setdefault("host_uuid", host.sim.host_uuid)
    return host.call("preparation", "check", request)


def test_it_answers_under_every_python(host):
    without_programs(host)
    found = facts(host, paths=["etc/xapi.d/plugins/glance", "etc/nothing"])
    glance = host.root / "etc/xapi.d/plugins/glance"
    digest = hashlib.sha256(glance.read_bytes()).hexdigest()
    assert found["files"] == {
        "etc/xapi.d/plugins/glance": [digest, 0o755, os.getuid(), os.getgid()],
        "etc/nothing": None,
    }
    assert "glance.py" in found["plugins"]
    assert found["python"].startswith("3.")
    assert found["uuid"] == host.sim.host_uuid


def test_images_on_the_sr_and_not(quiet):
    images = quiet.root / "images"
    assert facts(quiet)["images"]["kind"] == "folder"
    images.rmdir()
    assert facts(quiet)["images"]["kind"] == "missing"
    images.symlink_to(quiet.sr)
    found = facts(quiet, sr_path=quiet.sr_path)["images"]
    assert (found["kind"], found["linked"], found["on_sr"]) == ("folder", True, True)
    assert found["sr"] == quiet.sr_uuid
    images.unlink()
    images.symlink_to("/dev/shm")  # another file system
    assert facts(quiet, sr_path=quiet.sr_path)["images"]["on_sr"] is False
    images.unlink()
    images.symlink_to("/no/such/folder")
    assert facts(quiet)["images"]["kind"] == "broken"


def test_kernel_folders(quiet):
    (quiet.root / "boot/guest").rmdir()
    (quiet.root / "boot/guest").symlink_to(quiet.sr)
    found = facts(quiet)["kernels"]
    assert found["/boot/guest"]["linked"] is True
    assert found["/var/lib/xcp/guest"]["kind"] == "folder"
    assert found["/var/lib/xcp/guest"]["linked"] is False


def test_what_xapi_knows(quiet):
    found = facts(quiet)
    assert found["trust"] == {}  # a pool of one host
    record = quiet.api.xenapi.host.get_record(quiet.host_ref)
    assert found["toolstack"] == record["software_version"]["xapi_build"]
    assert found["images"]["sr"] == quiet.sr_uuid


def test_the_iso_library(quiet):
    api = quiet.api.xenapi
    assert facts(quiet)["iso"] == []
    (quiet.root / "var/opt/isos").mkdir(parents=True)
    device = {"location": "/var/opt/isos", "legacy_mode": "true"}
    sr = api.SR.create(quiet.host_ref, device, "0", "isos", "", "iso", "iso", False, {})
    assert facts(quiet)["iso"] == []
    api.SR.add_to_other_config(sr, "i18n-key", "local-storage-iso")
    assert facts(quiet)["iso"] == [api.SR.get_uuid(sr), True]
    (pbd,) = api.SR.get_PBDs(sr)
    api.PBD.unplug(pbd)
    assert facts(quiet)["iso"] == [api.SR.get_uuid(sr), False]


def test_who_listens_for_neutron(quiet):
    table = quiet.root / "proc/net/tcp"
    table.parent.mkdir(parents=True)
    assert facts(quiet)["ovsdb"] == []
    for port, state, seen in (
        (6640, "0A", ["00000000"]),
        (6640, "01", []),
        (6641, "0A", []),
    ):
        table.write_text(TABLE.format("00000000", port, state))
        assert facts(quiet)["ovsdb"] == seen


@pytest.mark.parametrize(
    ("rules", "opened"),
    [
        ("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", [True, True]),
        ("-P INPUT ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", [False] * 2),
        (
            "-P INPUT DROP\n-A RH-Firewall-1-INPUT -s 10.0.0.5/32 -p tcp -m tcp "
            "--dport 6640 -j ACCEPT\n",
            [True, False],
        ),
        (
            "-P INPUT DROP\n-A x -p udp -m multiport --dports 53,4789 -j ACCEPT\n",
            [False, True],
        ),
        ("-P INPUT DROP\n-A x -p tcp -m tcp --dport 6640 -j DROP\n", [False, False]),
    ],
)
def test_what_the_firewall_lets_in(quiet, rules, opened):
    quiet.wrap("iptables", f"#!/bin/sh\ncat <<'RULES'\n{rules}RULES\n")
    assert facts(quiet)["firewall"] == {"6640": opened[0], "4789": opened[1]}


def test_the_small_things(quiet):
    found = facts(quiet)
    assert found["console"] == ""
    assert found["blacklists"] == []
    assert found["firewall"] == {"6640": None, "4789": None}
    quiet.wrap("xenstore-read", "#!/bin/sh\necho /var/log/xen/guest/console.%d\n")
    quiet.wrap("conntrack", "#!/bin/sh\n")
    folder = quiet.root / "etc/modprobe.d"
    folder.mkdir()
    (folder / "blacklist-bridge.conf").write_text("blacklist bridge\n")
    (folder / "other.conf").write_text("")
    found = facts(quiet)
    assert found["console"] == "/var/log/xen/guest/console.%d"
    assert found["blacklists"] == ["blacklist-bridge.conf"]
    assert found["conntrack"] is True


@pytest.mark.parametrize(
    "request_",
    [
        {"paths": ["../etc/shadow"]},
        {"paths": ["root/.ssh/id_rsa"]},
        {"paths": ["etc/a\n"]},
        {"paths": [1]},
        {"paths": "etc/x"},
        {"paths": ["etc/x"] * 1001},
        {"sr_path": "/etc"},
        {"host_uuid": "x"},
        {"other": 1},
    ],
)
def test_bad_requests_are_refused(quiet, request_):
    with pytest.raises(PluginFailed) as caught:
        facts(quiet, **request_)
    assert caught.value.code == "BAD_ARGUMENT"


def test_a_link_is_no_file(quiet):
    link = quiet.root / "etc/linked"
    link.symlink_to("/etc/shadow")
    assert facts(quiet, paths=["etc/linked"])["files"] == {"etc/linked": None}


def test_nothing_is_changed(quiet):
    facts(quiet)  # Python compiles the library's first file, once
    before = sorted(str(path) for path in quiet.root.rglob("*"))
    inventory = quiet.sim.inventory()
    facts(quiet)
    assert sorted(str(path) for path in quiet.root.rglob("*")) == before
    assert quiet.sim.inventory() == inventory
