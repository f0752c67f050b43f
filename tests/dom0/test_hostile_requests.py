# SPDX-License-Identifier: Apache-2.0
"""Whatever a caller sends to any function of any plugin, it gets a clear code.

Requests are made of the names that a plugin's own source mentions, with values that
are right, nearly right or hostile, so that some get past each check. More of them:
``HOSTILE_CALLS=500 pytest tests/dom0/test_hostile_requests.py``.
"""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import uuid
from pathlib import Path

import pytest
from xenapi_dom0 import features

from tests.dom0 import interpreters, scratch_host
from xenapi_driver.xapi import plugins

CALLS = int(os.environ.get("HOSTILE_CALLS", "12"))
# Plugins may write here and nowhere else, seen from the host's root.
PLACES = (
    "run/sr-mount/", "run/lock/", "run/xenapi", "images", "boot/guest",
    "var/lib/xcp/guest", "var/lib/xenapi", "usr/etc/xenhost.conf", "var/log/xen/guest",
)  # fmt: skip
# Stops the host for everybody: called with a session that nobody has.
STOPPING = {
    "xenhost.host_reboot", "xenhost.host_shutdown", "xenhost.host_start",
    "xenhost.host_join", "xenhost.set_host_enabled",
}  # fmt: skip

FEATURES = features.of_folder(str(scratch_host.PLUGINS))


def test_every_plugin_tells_its_functions():
    plugins_there = {
        path.name
        for path in scratch_host.PLUGINS.iterdir()
        if path.is_file() and path.read_text().startswith("#!/usr/bin/python3")
    }
    assert plugins_there == {feature.split(".")[0] for feature in FEATURES}


def words(plugin: str) -> list[str]:
    """Return what can be names of arguments in a plugin and the modules it uses."""
    found = set()
    tree = ast.parse((scratch_host.PLUGINS / plugin).read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.replace("_", "a").isalnum()
            and len(node.value) < 30
        ):
            found.add(node.value)
    return sorted(found)


UUID = str(uuid.uuid4())
HOSTILE = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 1.5, 1e308, "", " ", ".", "..",
    "../../etc/passwd", "/etc/passwd", "/", "//", "-", "--help", "-rf", "a/b", "a\0b",
    "a\nb", "a\r\nX: y", "$(touch /tmp/owned)", "`id`", ";id", "|id", "a b", "%s%n",
    "x" * 300, "x" * 5000, "\u202e", "\ud800", "\U0001f40b", "\x7f", "\x1b[2J",
    UUID, UUID.upper(), UUID + "\n", UUID + "/..", "OpaqueRef:NULL",
    "OpaqueRef:" + UUID,
    "00:00:00:00:00:00", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "127.0.0.1", "::1",
    "fe80::1%lo", "0.0.0.0", "10.0.0.0/8", "999.1.1.1", "http://127.0.0.1:9/x",
    "file:///etc/passwd", "vif1.0", "vif0.0", "eth0", "lo", "xenbr0", "br-int",
    [], {}, [[]], [None], [1, "a", {}], {"a": {}}, {"": ""}, ["ip", "link"],
    ["ip", "netns", "exec", "x", "id"], ["sysctl", "-p", "/etc/passwd"],
    ["iptables-restore"], {"algo": "md5", "value": "0" * 32},
    {"ca_file": "/etc/passwd"},
]  # fmt: skip
# Values of the members that real calls have, so that one wrong one is met alone.
PLAIN = {
    "image_id": UUID, "vdi_uuid": UUID, "vif_uuid": UUID, "instance_uuid": UUID,
    "host_uuid": UUID, "uuid_stack": [UUID], "vdi_uuids": [UUID], "seq_num": 0,
    "url": "http://127.0.0.1:9/x", "urls": ["http://127.0.0.1:9/x"], "headers": {},
    "checksum": None, "verify": {"insecure": False}, "max_bytes": None, "attempts": 1,
    "dom_id": 7, "timeout": 1, "id": UUID, "path": "vm-data/hostname", "value": "x",
    "mac": "02:00:00:00:00:01", "host": "127.0.0.1", "cmd": ["ip", "link"],
    "cmd_input": None, "key": "a", "dev": "xvdz", "dev_path": "/dev/xvdz",
    "max_seconds": 0, "properties": {}, "size": 1, "wait": 0, "seconds": 0,
}  # fmt: skip


def requests(plugin: str, host, rng: random.Random) -> list[dict]:
    """Return hostile requests for any function of a plugin."""
    names = words(plugin)
    plain = {**PLAIN, "sr_path": host.sr_path}
    values = [*HOSTILE, host.sr_path, host.sr_path + "/..", host.sr_path + "/"]
    made: list[dict] = [{}, {name: plain.get(name) for name in names if name in plain}]
    while len(made) < CALLS:
        one = {name: plain[name] for name in names if name in plain}
        for name in rng.sample(names, min(len(names), rng.randint(0, 3))):
            one[name] = rng.choice(values)
        for name in list(one):
            if rng.random() < 0.1:
                del one[name]
            elif rng.random() < 0.15:
                one[name] = rng.choice(values)
        for name in ("timeout", "max_seconds", "wait"):
            if isinstance(one.get(name), int) and one[name] > 1:
                one[name] = 1
        made.append(one)
    return made


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What every function did with every request, and the host afterwards."""
    python = interpreters.wanted("3.6")
    folder = tmp_path_factory.mktemp("hostile")
    host = scratch_host.ScratchHost(folder / "host", python)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    for place in ("images", "boot/guest", "run/sr-mount"):
        (host.root / place / "way-out").symlink_to(outside)
    host.wrap("any", "#!/bin/sh\necho any\n")
    host.dom0.open_xapi()
    before = _files(host.root)
    calls = _calls(host)
    program = Path(__file__).with_name("many_calls.py")
    done = subprocess.run(
        [python, str(program), str(host.dom0.plugins)],
        input="".join(json.dumps(call) + "\n" for call in calls),
        capture_output=True, text=True, env=host.environment(), timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(calls)
    yield list(zip(calls, answers, strict=True)), host, before, outside
    host.close()


def _calls(host) -> list:
    rng = random.Random(5)
    calls = []
    for feature in FEATURES:
        plugin, fn = feature.split(".")
        session = host.api._session if feature not in STOPPING else "OpaqueRef:nobody"
        for request in requests(plugin, host, rng):
            calls.append([plugin, fn, session, {"request": json.dumps(request)}])
    return calls


def _files(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, folders, files in os.walk(root)
        for name in folders + files
        if "xapi.d" not in folder
    }


def test_every_call_is_answered_in_time_by_a_value_or_a_known_code(outcomes):
    wrong = []
    for call, answer in outcomes[0]:
        try:
            scratch_host.answer(answer["out"].encode())
        except scratch_host.PluginFailed as exc:
            if exc.code in plugins.CODES:
                continue
            wrong.append((call, exc.code, exc.params))
        except Exception:
            wrong.append((call, answer))
        if answer["late"]:
            wrong.append((call, "late"))
    shown = "\n".join(str(one)[:700] for one in wrong[:12])
    assert not wrong, f"{len(wrong)} of {len(outcomes[0])}:\n{shown}"


def test_no_call_says_anything_beside_its_answer(outcomes):
    said = {answer["err"][-500:] for _call, answer in outcomes[0] if answer["err"]}
    assert said == set()


def test_no_file_is_made_outside_its_place(outcomes):
    _answers, host, before, outside = outcomes
    strays = [
        name
        for name in _files(host.root) - before
        if not name.startswith(PLACES)
    ]
    assert strays == []
    assert [path.name for path in outside.iterdir()] == ["canary"]
    assert (outside / "canary").read_text() == "alive"


def test_no_process_is_left(outcomes):
    mine = f"XENAPI_DOM0_ROOT={outcomes[1].root}".encode()
    left = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mine in environ.read_bytes().split(b"\0"):
                left.append((environ.parent / "cmdline").read_text()[:200])
        except OSError:
            continue  # gone, or not ours to read
    assert left == []


def test_the_session_is_never_repeated(outcomes):
    session = outcomes[1].api._session
    for _call, answer in outcomes[0]:
        assert session not in answer["out"]
        assert session not in answer["err"]


