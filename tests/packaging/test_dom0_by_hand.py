# SPDX-License-Identifier: Apache-2.0
"""What the page about dom0 has an operator type by hand, typed over a real sshd."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import xmlrpc.client
from importlib import metadata

import pytest

from tests import command_line
from tests.packaging import sshd_host
from xenapi_driver.cmd import dom0_build, dom0_install, plugin_tree

PAGE = pathlib.Path(__file__).parents[2] / "doc/source/install/dom0.rst"
VERSION = metadata.version("xenapi-driver")


def typed(word: str) -> str:
    """Return the one command of the page that has a word in it."""
    lines = re.findall(r"^   (?:\$|\[root@host [^]]*\]#) (.*)$", PAGE.read_text(), re.M)
    (found,) = [line for line in lines if word in line]
    return found


@pytest.fixture
def shell(reached, tmp_path):
    """Type a command on the machine of nova-compute; HOST is the host."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "config").write_text(
        f"Host HOST\n HostName 127.0.0.1\n Port {reached.port}\n"
        f" IdentityFile {reached.key}\n UserKnownHostsFile {reached.known}\n"
        " IdentitiesOnly yes\n BatchMode yes\n"
    )
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
    ssh.chmod(0o755)

    def run(command: str, **environment: str) -> None:
        path = {"PATH": f"{folder}:{os.environ['PATH']}", **environment}
        subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=tmp_path,
            env={**os.environ, **path},
            check=True,
        )

    return run


def answer(root: pathlib.Path, name: str) -> dict:
    """Ask the version plugin under one of its names, as XAPI starts it."""
    call = xmlrpc.client.dumps(("OpaqueRef:x", {"request": "{}"}), "get_version")
    done = subprocess.run(
        [root / "etc/xapi.d/plugins" / name, call],
        capture_output=True,
        check=True,
        env={"PATH": "/bin:/usr/bin", "XENAPI_DOM0_ROOT": str(root)},
    )
    (struct,), _ = xmlrpc.client.loads(done.stdout)
    return json.loads(struct["Value"])


def test_the_documented_tar_of_a_source_tree(reached, shell, ordered):
    shell(typed('-C "$PLUGINPATH"'), PLUGINPATH=str(plugin_tree.plugins()))
    assert answer(reached.root, "dom0_plugin_version")["package"] == ""
    # The command goes on from there.
    options = reached.options()
    status, rows = ordered(dom0_install.Install, "root@127.0.0.1", *options)
    assert (status, rows[0]["State"]) == (0, "updated")
    assert answer(reached.root, "dom0_plugin_version.py")["package"] == VERSION


def test_the_tarball_by_hand_and_the_removal(reached, shell, ordered, tmp_path):
    build = ("--only", "tarball", "--output", tmp_path)
    status, _ = command_line.run(dom0_build.Build, *build)
    assert status == 0
    before = sshd_host.files(reached.root)
    shell(typed("ssh root@HOST tar -xzf").replace("VERSION", VERSION))
    assert answer(reached.root, "dom0_plugin_version.py")["package"] == VERSION
    options = reached.options()
    status, rows = ordered(dom0_install.Install, "root@127.0.0.1", *options)
    told = {row["State"] for row in rows if "answer" not in row["What"]}
    assert (status, told) == (0, {"unchanged"})
    folder = reached.root / "etc/xapi.d/plugins"
    for word in ("grep -lsE", "rm -rf xenapi_dom0"):
        shell(f"cd {folder} && {typed(word)}")
    left = {path for path in sshd_host.files(reached.root) if path.startswith("etc/x")}
    assert {path for path in left if "/plugins/" in path} == {
        path for path in before if "/plugins/" in path
    }
