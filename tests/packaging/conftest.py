# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a host behind sshd, and the commands as a shell would run them."""

from __future__ import annotations

import os
import shutil

import pytest

from tests import command_line
from tests.dom0 import interpreters
from tests.packaging import sshd_host

REQUIRED = os.environ.get("REQUIRE_ROOT_PARTS") == "1"


def missing(what: str) -> None:
    """Skip the test, or fail where everything has to be there."""
    if REQUIRED:
        pytest.fail(f"missing: {what}")
    pytest.skip(f"missing: {what}")


@pytest.fixture
def reached(tmp_path):
    """A host behind sshd, under a dom0's Python."""
    if os.geteuid() != 0:
        missing("root, as which the scripts are installed")
    if not (shutil.which("ssh") and os.path.exists("/usr/sbin/sshd")):
        missing("openssh-server and openssh-client")
    root = sshd_host.make_root(tmp_path / "root")
    host = sshd_host.SshdHost(tmp_path / "ssh", interpreters.wanted("3.6"), root)
    yield host
    host.close()


@pytest.fixture
def ordered(tmp_path):
    """Run a command of ours; return its exit status and its rows."""
    nowhere = tmp_path / "empty.conf"
    nowhere.write_text("")

    def run(kind, *argv: object) -> tuple[int, list[dict[str, str]]]:
        given = "--config-file" in argv
        return command_line.run(
            kind, *argv, *(() if given else ("--config-file", nowhere))
        )

    return run
