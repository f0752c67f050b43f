# SPDX-License-Identifier: Apache-2.0
"""What each fact about a dom0 is judged to be."""

from __future__ import annotations

import pytest

from xenapi_driver.cmd import dom0_findings
from xenapi_driver.dom0.tree import Entry

FOLDER = {"kind": "folder", "linked": False, "on_root_disk": False}
PLUGIN = Entry("etc/xapi.d/plugins/glance", b"#!/usr/bin/python3\n")
HOOK = Entry("etc/xapi.d/vif-hotplug", b"#!/usr/bin/python3\n")
CRON = Entry("etc/cron.d/xenapi-driver-guest-logs", b"* * * * * root x\n")
LAID = [PLUGIN, HOOK, CRON]


def described(entry: Entry, **changes: int | str) -> list[int | str]:
    known = {"digest": entry.digest, "mode": entry.mode, "uid": 0, "gid": 0}
    return list({**known, **changes}.values())


def facts(**changes):
    """Facts about a host where all is well."""
    return {
        "uuid": "u",
        "name": "xcpng-01",
        "python": "3.6.8",
        "files": {entry.path: described(entry) for entry in LAID},
        "plugins": ["glance"],
        "images": {**FOLDER, "sr": "s", "on_sr": True},
        "kernels": {"/boot/guest": FOLDER, "/var/lib/xcp/guest": FOLDER},
        "toolstack": "26.1.3",
        "iso": ["i", True],
        "trust": {"10.0.0.2": ""},
        "ovsdb": ["00000000"],
        "firewall": {"6640": True, "4789": True},
        "blacklists": [],
        "conntrack": True,
        "console": "/var/log/xen/guest/console.%d",
        **changes,
    }


def judged(check: str, **changes) -> list[tuple[str, str, str]]:
    rows = dom0_findings.rows(facts(**changes), LAID, "1.0")
    return [(row.state, row.seen, row.remedy) for row in rows if row.check == check]


def test_all_is_well():
    rows = dom0_findings.rows(facts(), LAID, "1.0")
    assert {row.state for row in rows} == {"ok"}
    assert {row.remedy for row in rows} == {""}
    assert {row.check for row in rows} == set(dom0_findings.CHECKS) - {"plugins"}


@pytest.mark.parametrize(
    ("check", "changes", "state", "word"),
    [
        ("files", {"plugins": None}, "failed", "no /etc/xapi.d/plugins"),
        ("images", {"images": {"kind": "missing", "sr": "s"}}, "warning", "not there"),
        ("images", {"images": {"kind": "broken", "sr": None}}, "warning", "nowhere"),
        (
            "images",
            {"images": {**FOLDER, "sr": "s", "on_sr": False}},
            "warning",
            "another file system",
        ),
        (
            "images",
            {"images": {**FOLDER, "sr": None, "on_sr": None}},
            "warning",
            "not known",
        ),
        ("ssh trust", {"trust": None}, "not checked", "does not say"),
        ("ssh trust", {"trust": {}}, "ok", "no other host"),
        ("ssh trust", {"trust": {"10.0.0.2": "denied"}}, "warning", "denied"),
        ("ISO SR", {"iso": None}, "not checked", "does not say"),
        ("ISO SR", {"iso": []}, "warning", "no ISO SR"),
        ("ISO SR", {"iso": ["i", False]}, "warning", "not plugged"),
        ("Open vSwitch", {"ovsdb": []}, "warning", "6640"),
        ("firewall", {"firewall": {"6640": None, "4789": None}}, "not checked", "rule"),
        ("firewall", {"firewall": {"6640": False, "4789": True}}, "warning", "TCP"),
        ("bridges", {"blacklists": ["blacklist-bridge"]}, "warning", "hybrid"),
        ("conntrack", {"conntrack": False}, "warning", "conntrack"),
        ("console logs", {"console": None}, "not checked", "xenstore"),
        ("console logs", {"console": ""}, "warning", "console log"),
    ],
)
def test_what_is_missing(check, changes, state, word):
    ((found, seen, remedy),) = judged(check, **changes)
    assert found == state
    assert word in seen
    assert bool(remedy) == (state in ("failed", "warning"))


@pytest.mark.parametrize(
    ("toolstack", "missing", "state"),
    [
        ("26.1.3", "/boot/guest", "ok"),
        ("26.1.3", "/var/lib/xcp/guest", "warning"),
        ("24.19.2", "/var/lib/xcp/guest", "ok"),
        ("1.249.3", "/boot/guest", "warning"),
        ("", "/boot/guest", "ok"),
        ("", "/var/lib/xcp/guest", "ok"),
    ],
)
def test_the_folder_of_kernels_is_the_toolstack_s(toolstack, missing, state):
    kernels = {**facts()["kernels"], missing: {"kind": "missing", "linked": False}}
    ((found, _seen, _remedy),) = judged(
        "guest kernels", toolstack=toolstack, kernels=kernels
    )
    assert found == state


def test_a_link_is_refused_by_a_new_toolstack_alone():
    kernels = dict.fromkeys(facts()["kernels"], {**FOLDER, "linked": True})
    for toolstack, state in (("26.1.3", "warning"), ("24.19.2", "ok")):
        found = judged("guest kernels", toolstack=toolstack, kernels=kernels)
        assert [one[0] for one in found] == [state]


@pytest.mark.parametrize(
    ("entry", "found", "state", "word"),
    [
        (PLUGIN, None, "failed", "missing"),
        (HOOK, None, "warning", "missing outside"),
        (PLUGIN, described(PLUGIN, mode=0o644), "failed", "not executable"),
        (PLUGIN, described(PLUGIN, uid=7), "failed", "root's alone"),
        (PLUGIN, described(PLUGIN, mode=0o777), "failed", "root's alone"),
        (PLUGIN, described(PLUGIN, digest="0"), "warning", "other than in"),
        (HOOK, described(HOOK, digest="0"), "warning", "another's"),
        (CRON, described(CRON, digest="0"), "ok", "was changed"),
    ],
)
def test_files(entry, found, state, word):
    files = {**facts()["files"], entry.path: found}
    ((seen_state, seen, _remedy),) = judged("files", files=files)
    assert seen_state == state
    assert word in seen


def test_many_files_are_counted():
    laid = [Entry(f"etc/xapi.d/plugins/p{n}", b"#!x") for n in range(9)]
    rows = dom0_findings.rows(facts(files={}), laid, "1.0")
    (row,) = [row for row in rows if row.check == "files"]
    assert row.seen.endswith("and 6 more")
