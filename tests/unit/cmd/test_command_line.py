# SPDX-License-Identifier: Apache-2.0
"""The installed command: its list, and the embedded host that it starts."""

from __future__ import annotations

import configparser
import pathlib
import pkgutil
import re
import signal
import subprocess
import sys
import xmlrpc.client

import pytest
from cliff.command import Command

COMMAND = pathlib.Path(sys.executable).parent / "xenapi-driver"

SETUP = pathlib.Path(__file__).parents[3] / "setup.cfg"

installed = pytest.mark.skipif(
    not COMMAND.exists(), reason="missing: xenapi-driver (make venv)"
)


@installed
def test_without_arguments_it_lists_the_subcommands():
    done = subprocess.run([COMMAND], capture_output=True, text=True, check=True)
    assert "Start the embedded XAPI host" in done.stdout


def test_every_subcommand_of_setup_cfg_is_there():
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    lines = setup["entry_points"]["xenapi_driver.commands"].split("\n")
    named = dict(re.split(r"\s*=\s*", line) for line in lines if line)
    assert {"doctor", "sim"} <= set(named)
    for place in named.values():
        assert issubclass(pkgutil.resolve_name(place), Command)


@installed
def test_sim_has_its_own_options():
    done = subprocess.run([COMMAND, "sim", "--help"], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    assert "--tls" in done.stdout


@installed
def test_sim_answers_until_it_is_told_to_end(tmp_path):
    argv = [COMMAND, "sim", "--port", "0", "--state", str(tmp_path / "host")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on "), line
            server = xmlrpc.client.ServerProxy(line.split()[-1])
            answer = server.session.login_with_password("root", "secret", "1.0", "t")
            assert "Success" == answer["Status"]
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=20)
    assert 0 == status
