# SPDX-License-Identifier: Apache-2.0
"""A service that is killed leaves tasks on the host, which the next one removes."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from tests import embedded
from tests.sim.clients import XmlClient, vm_record, wait_until
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi.session import Session

PROGRAM = pathlib.Path(__file__).with_name("crash_program.py")
ROOT = PROGRAM.parents[2]


def test_the_next_session_removes_what_a_killed_process_left(tmp_path):
    sim = Simulator(tmp_path)
    killed = []
    try:
        door = sim.serve()
        operator = XmlClient(sim.handle)
        vms = [operator.call("VM.create", vm_record()) for _ in range(4)]
        sim.faults.add("VM.start_on", action="hang", times=-1)
        for originator, some in (("ours", vms[:3]), ("another", vms[3:])):
            command = [sys.executable, "-W", "ignore", str(PROGRAM)]
            killed.append(
                subprocess.Popen(
                    [*command, door.url, originator, *some],
                    cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""},
                )  # fmt: skip
            )
        wait_until(lambda: len(sim.world.db.refs("task")) == 4, seconds=60)
        for process in killed:
            process.kill()
            process.wait()
        following = Session(embedded.through(door), "root", "secret", "ours")
        with following:
            own = following.task("Async.SR.scan", following.pool.default_sr)
            assert own == ""
            following.clear_leftovers()
            wait_until(lambda: len(sim.world.db.refs("task")) == 1)
            (left,) = sim.world.db.rows("task")
            assert left[1]["other_config"]["originator"] == "another"
        states = [operator.call("VM.get_power_state", ref) for ref in vms]
        assert states == ["Halted"] * 4
    finally:
        for process in killed:
            process.kill()
            process.wait()
        sim.close()
