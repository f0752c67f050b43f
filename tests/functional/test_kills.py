# SPDX-License-Identifier: Apache-2.0
"""nova-compute is killed in the middle of a build: what its next start puts right."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import builders
from tests.sim.clients import wait_until
from xenapi_driver.ops import left_overs

PROGRAM = pathlib.Path(__file__).with_name("kill_program.py")
ROOT = PROGRAM.parents[2]

NO_COW = [["DEFAULT", "use_cow_images", False]]
NO_CACHE = [["xenserver", "cache_images", "none"]]

# At which call of a build it is killed; with what options.
POINTS = [
    ({"method": "host.call_plugin", "skip": 1, "after": True}, []),
    ({"method": "SR.scan", "skip": 1, "after": True}, []),
    ({"method": "VDI.set_other_config"}, []),
    ({"method": "VDI.set_name_label"}, []),
    ({"method": "VDI.clone", "after": True}, []),
    ({"method": "VDI.set_name_label", "skip": 1}, []),
    ({"method": "VDI.set_other_config", "skip": 1}, []),
    ({"method": "VDI.resize"}, []),
    ({"method": "VM.create", "after": True}, []),
    ({"method": "VBD.create", "after": True}, []),
    ({"method": "VM.start_on", "after": True}, []),
    ({"method": "VDI.set_name_label"}, NO_CACHE),
    ({"method": "host.call_plugin", "skip": 2, "after": True}, NO_COW),
    ({"method": "VDI.set_name_label", "skip": 1}, NO_COW),
]


@pytest.fixture
def service(rig):
    """A process that builds what it is told, in processes of its own."""
    command = [sys.executable, "-W", "ignore", str(PROGRAM), str(rig.nova_conf())]
    process = subprocess.Popen(
        [*command, rig.images.url], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


def killed_at(rig, service, point, options):
    """Have a server built until that call, and kill who builds it; return it."""
    instance = builders.instance(rig.image_id)
    rig.sim.faults.add(**point, action="hang")
    asked = {
        "id": instance.id,
        "uuid": instance.uuid,
        "record": rig.records[rig.image_id],
        "options": options,
    }
    print(json.dumps(asked), file=service.stdin, flush=True)
    builder = int(service.stdout.readline())
    reached = False
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not rig.sim.faults.rules(), seconds=30)
        reached = True
    with contextlib.suppress(ProcessLookupError):
        os.kill(builder, signal.SIGKILL)
    assert service.stdout.readline() == "over\n"
    assert reached, f"the build never came to {point}"
    wait_until(lambda: not under_way(rig), seconds=30)
    return instance


def under_way(rig):
    """Tell whether the host still brings to its end what it has begun."""
    rig.sim.faults.clear()  # again and again: a call may come to its fault late
    tasks = rig.sim.world.db.rows("task")
    return any(row["status"] == "pending" for _ref, row in tasks)


def disks(rig):
    """Return the names of all disks that can be seen, and how they are marked."""
    return sorted(
        (disk["name_label"], *sorted(disk["other_config"]))
        for disk in rig.host.records("VDI")
        if disk["managed"]
    )


def test_a_build_killed_at_any_step_leaves_at_most_the_entry(
    rig, service, monkeypatch
):
    monkeypatch.setattr(left_overs, "never_ran", lambda uuid, service_host: True)
    rig.driver.cleanup_host("compute1")
    before = disks(rig)
    entry = (f"Glance Image {rig.image_id}", "cache-entry", "cached-time", "image-id")
    for point, options in POINTS:
        instance = killed_at(rig, service, point, options)
        rig.start()
        # Nova notes that the build ended, and its owner deletes the server.
        rig.destroy(instance)
        left = [disk for disk in disks(rig) if disk not in before]
        assert left in ([], [entry]), (point, options)
        assert rig.host.records("VM", name_label=instance.name) == []
        again = builders.instance(rig.image_id)
        rig.spawn(again)
        assert rig.driver.get_info(again).state == 1
        rig.destroy(again)
        for one in rig.host.records("VDI", name_label=entry[0]):
            rig.host.destroy("VDI", one["uuid"])
        rig.driver.cleanup_host("compute1")
    assert disks(rig) == before
