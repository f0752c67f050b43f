# SPDX-License-Identifier: Apache-2.0
"""The XAPI layer in both concurrency modes of Nova, and without a warning."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.sim.clients import wait_until
from xenapi_driver.sim import Simulator

PROGRAM = pathlib.Path(__file__).with_name("both_modes.py")
ROOT = PROGRAM.parents[2]


@pytest.mark.parametrize("mode", ["native", "eventlet"])
def test_a_session_outlives_trouble_in_either_mode(tmp_path, mode):
    # Eventlet warns of its own end when it is imported.
    warnings = "error" if mode == "native" else "ignore"
    if mode == "eventlet":
        pytest.importorskip("eventlet", reason="missing: eventlet")
    sim = Simulator(tmp_path)
    try:
        url = sim.serve(admin=True).url
        done = subprocess.run(
            [sys.executable, "-W", warnings, str(PROGRAM), mode, url],
            capture_output=True, text=True, timeout=120, cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )  # fmt: skip
        assert done.stdout.strip() == "done", done.stdout + done.stderr
        assert "Warning" not in done.stderr
        db = sim.world.db
        wait_until(lambda: db.refs("session") == [])
        assert db.refs("task") == []
    finally:
        sim.close()
