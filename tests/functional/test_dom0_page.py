# SPDX-License-Identifier: Apache-2.0
"""The page about dom0 shows what ``dom0 check`` prints, and explains every check.

``python -m tests.functional.test_dom0_page`` writes the page's sample anew.
"""

from __future__ import annotations

import io
import os
import pathlib
import re
import tempfile

import pytest

from tests import command_line, fixtures
from tests.functional.test_doctor_page import INSTALL, WIDTH, Settled
from xenapi_driver.cmd import app, doctor, dom0_check, dom0_findings, plugin_tree
from xenapi_driver.dom0 import tree

SAMPLE = INSTALL / "dom0-check-sample.txt"


def prepare(root: pathlib.Path) -> None:
    """Lay what the embedded host lacks, and programs of its own."""
    for entry in tree.entries(plugin_tree.find(), "1"):
        if not entry.plugin:
            file = root / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.content)
            file.chmod(entry.mode)
    programs = root / "usr/bin"
    programs.mkdir(exist_ok=True)
    rules = "-P INPUT DROP\\n-A IN -p tcp -m tcp --dport 6640 -j ACCEPT"
    for name, script in {
        "ssh": "exit 1",
        "conntrack": "exit 0",
        "iptables": f"printf -- '{rules}\\n'",
        "xenstore-read": "echo /var/log/xen/guest/console.%d",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    table = root / "proc/net/tcp"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("head\n0: 00000000:19F0 00000000:0000 0A\n")


def sample(folder: pathlib.Path) -> str:
    """Return what the command prints, with what changes settled."""
    rig = fixtures.Rig(folder)
    try:
        rig.set_option("connection_url", rig.sim.serve().url)
        root = rig.sim.world.dom0.root
        prepare(root)
        (root / "images").rmdir()
        status, told = command_line.run(
            dom0_check.Check, "--config-file", rig.nova_conf()
        )
    finally:
        rig.close()
    settled = Settled()
    rows = []
    for row in told:
        text = "\0".join(row.values())
        text = re.sub(
            r"Python 3\.[\d.]+\d in dom0 of [^.]+",
            "Python 3.6.8 in dom0 of xcpng-01",
            text,
        )
        text = re.sub(r"\b\d+ files", "90 files", text)
        rows.append(tuple(settled(text).split("\0")))

    class Settling(dom0_check.Check):
        failed = bool(status)

        def take_action(self, parsed_args):
            return doctor.COLUMNS, rows

    application = app.XenapiDriver()
    application.stdout = io.StringIO()
    command = Settling(application, None)
    parser = command.get_parser("xenapi-driver dom0 check")
    status = command.run(parser.parse_args(["--max-width", str(WIDTH)]))
    table = application.stdout.getvalue()
    return f"$ xenapi-driver dom0 check\n{table}$ echo $?\n{status}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, whose files plugins are")
def test_the_sample_is_what_the_command_prints(tmp_path):
    assert SAMPLE.read_text() == sample(tmp_path), __doc__


def test_every_check_is_explained_in_order():
    text = (INSTALL / "dom0.rst").read_text()
    explained = text.partition("What a host lacks\n")[2].partition("By hand\n")[0]
    terms = re.findall(r"^(\S.*)\n   \S", explained, re.MULTILINE)
    named = [name for term in terms for name in term.split(", ")]
    assert [name for name in named if name in dom0_findings.CHECKS] == list(
        dom0_findings.CHECKS
    )


if __name__ == "__main__":
    fixtures.prepare_nova()
    with tempfile.TemporaryDirectory() as somewhere:
        SAMPLE.write_text(sample(pathlib.Path(somewhere)))
