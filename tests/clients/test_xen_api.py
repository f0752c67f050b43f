# SPDX-License-Identifier: Apache-2.0
"""npm's ``xen-api``, with which Xen Orchestra speaks to hosts."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess

import pytest

from tests.clients.environments import HERE
from tests.sim.clients import GIB, Refused, vbd_record, vdi_record, vm_record

PROGRAM = HERE / "programs" / "mirror.mjs"
MIB = 1 << 20
# Times that xapi itself changes without an event.
UNTOLD = {"host_metrics": {"last_updated"}}


class Mirror:
    """The running program; its methods are what it can be told."""

    def __init__(self, folder, environment, url):
        # Where a module is found goes by the file that wants it.
        shutil.copy(PROGRAM, folder)
        (folder / "node_modules").symlink_to(environment / "node_modules")
        own = environment / "node" / "bin"
        environ = {**os.environ, "PATH": f"{own}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            ["node", "mirror.mjs", url],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.types = self._answer(30)["types"]

    def _answer(self, seconds):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "xen-api does not answer"
        line = json.loads(self.process.stdout.readline() or '{"refused": ["ended"]}')
        if "refused" in line:
            raise Refused(line["refused"])
        return line["answer"]

    def tell(self, what, *words):
        """Send without waiting."""
        line = json.dumps({"do": what, "with": words})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __call__(self, what, *words, seconds=30):
        self.tell(what, *words)
        return self._answer(seconds)

    def close(self):
        self.process.stdin.close()
        try:
            assert self.process.wait(timeout=20) == 0
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture
def mirror(tmp_path, environment, any_host):
    folder = tmp_path / "xen-api"
    folder.mkdir()
    program = Mirror(folder, environment("xen-api"), any_host.url)
    yield program
    said = program("problems")
    program.close()
    assert said == []


@pytest.fixture
def client(any_host):
    with any_host.look() as found:
        yield found


def plain(cls, records):
    """Return records without what changes untold."""
    return {
        ref: {
            key: value for key, value in rec.items() if key not in UNTOLD.get(cls, ())
        }
        for ref, rec in records.items()
    }


def assert_in_step(mirror, client):
    """Compare every object that it holds with the host's own records."""
    held = mirror("objects")
    for cls in mirror.types:
        if cls == "task":
            # Our own look at the host makes some.
            continue
        try:
            told = client.call(f"{cls}.get_all_records")
        except Refused as refused:
            assert refused.code == "MESSAGE_REMOVED", cls
            continue
        if cls == "pool":
            for record in [*told.values(), *held["pool"].values()]:
                record["other_config"] = {}
        assert plain(cls, held.get(cls, {})) == plain(cls, told), cls
    return held


def new_vm(client, name="born later"):
    vm = client.call("VM.create", vm_record(name_label=name))
    pool = client.call("pool.get_all")[0]
    sr = client.call("pool.get_default_SR", pool)
    vdi = client.call("VDI.create", vdi_record(sr, name_label=f"disk of {name}"))
    client.call("VBD.create", vbd_record(vm, vdi))
    return vm, vdi


def test_objects_keep_in_step(mirror, client):
    """VMs come, run, change and go by another client's hand."""
    assert len(mirror.types) > 40
    assert_in_step(mirror, client)
    vm, vdi = new_vm(client)
    assert vm in assert_in_step(mirror, client)["VM"]
    client.call("VM.start", vm, False, False)
    held = assert_in_step(mirror, client)
    assert held["VM"][vm]["power_state"] == "Running"
    snapshot = client.call("VM.snapshot", vm, "before", [])
    copies = [client.call("VM.clone", snapshot, f"copy {n}") for n in range(5)]
    held = assert_in_step(mirror, client)
    assert set(copies) <= set(held["VM"])
    client.call("VM.hard_shutdown", vm)
    for ref in [vm, snapshot, *copies]:
        client.call("VM.destroy", ref)
    client.call("VDI.destroy", vdi)
    held = assert_in_step(mirror, client)
    assert vm not in held["VM"] and vdi not in held["VDI"]


def test_links_lead_to_objects(mirror, client):
    vm, _ = new_vm(client)
    client.call("VM.start", vm, False, False)
    host = client.call("VM.get_resident_on", vm)
    assert mirror("linked", vm) == {
        "disks": ["disk of born later"],
        "networks": [],
        "host": client.call("host.get_name_label", host),
        "pool": client.call("pool.get_all")[0],
    }


def test_calls_change_the_host(mirror, client):
    vm, _ = new_vm(client)
    assert mirror("call", "VM.get_name_label", vm) == "born later"
    mirror("rename", vm, "renamed")
    assert client.call("VM.get_name_label", vm) == "renamed"
    mirror("describe", vm, "colour", "green")
    mirror("describe", vm, "colour", "blue")
    assert client.call("VM.get_other_config", vm)["colour"] == "blue"
    mirror("describe", vm, "colour", None)
    assert "colour" not in client.call("VM.get_other_config", vm)
    with pytest.raises(Refused) as refused:
        mirror("call", "VM.unpause", vm)
    assert refused.value.args[0] == ["VM_BAD_POWER_STATE", vm, "paused", "halted"]


def test_tasks_end_by_events(mirror, client):
    """callAsync gives the decoded result or the failure, and leaves no task."""
    vm, _ = new_vm(client)
    # As "" is what a void result looks like here.
    assert mirror("callAsync", "VM.start", vm, False, False) == ""
    assert client.call("VM.get_power_state", vm) == "Running"
    copy = mirror("callAsync", "VM.snapshot", vm, "its name", [])
    assert client.call("VM.get_snapshot_of", copy) == vm
    with pytest.raises(Refused) as refused:
        mirror("callAsync", "VM.start", vm, False, False)
    assert refused.value.args[0] == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    mirror("objects")
    names = [rec["name_label"] for rec in client.call("task.get_all_records").values()]
    assert not [name for name in names if name.startswith("Async.")]


def test_task_of_another_client_is_watched(mirror, client):
    vm, _ = new_vm(client)
    task = client.call("task.create", "long work", "")
    mirror("objects")
    mirror.tell("watchTask", task)
    client.call("task.set_result", task, f"<value>{vm}</value>")
    client.call("task.set_status", task, "success")
    assert mirror._answer(30) == vm
    client.call("task.destroy", task)


@pytest.mark.parametrize("way", ["upload", "uploadStream"])
def test_disk_goes_up_and_comes_down(mirror, client, way):
    _, vdi = new_vm(client)
    client.call("VDI.resize", vdi, str(GIB))
    digest = mirror(way, vdi, 0x5A, 4 * MIB)
    small = client.call("VDI.get_SR", vdi)
    other = client.call("VDI.create", vdi_record(small, virtual_size=str(4 * MIB)))
    assert mirror(way, other, 0x5A, 4 * MIB) == digest
    assert mirror("download", other) == digest
    assert mirror("download", vdi) != digest
