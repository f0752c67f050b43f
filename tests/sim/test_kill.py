# SPDX-License-Identifier: Apache-2.0
"""A real process, busy clients, kill -9 at random moments, and what is found then.

What a client was told is there after the restart; what it asked for last may be or
may not, but nothing of it is half there.
"""

import contextlib
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from tests.sim.clients import (
    GIB,
    NULL,
    Refused,
    XmlClient,
    vbd_record,
    vdi_record,
    vm_record,
)
from tests.sim.transfers import Carrier
from xenapi_driver.sim import schema
from xenapi_driver.sim.storage.vhd_store import SrStore, StorageError

ROUNDS = 5
CLIENTS = 3
SEED = int(os.environ.get("SIM_KILL_SEED", "20260821"))
# Fields that may name what is gone on a real host too.
MAY_DANGLE = {("VM", "last_booted_record")}
# Classes that no client can list.
NO_RECORDS = {"session", "message"}
MODEL = schema.load()


# The number of a disk that nobody wrote to.
NOTHING = 0


def data(number):
    """Return what is written to a disk: across the end of a block of its file."""
    if number == NOTHING:
        return bytes(3 << 20)
    return random.Random(number).randbytes(3 << 20)


class Gone(Exception):
    """The process was killed while a call was under way."""


class Process:
    """The simulator as its users start it."""

    def __init__(self, state):
        command = [sys.executable, "-m", "xenapi_driver.sim", "--state", str(state)]
        self.process = subprocess.Popen(
            [*command, "--dom0-python", sys.executable, "--sr-size-gib", "1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[2]
        self.address = urlsplit(self.url).netloc

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()

    def client(self):
        connection = http.client.HTTPConnection(self.address, timeout=30)

        def send(body):
            try:
                connection.request("POST", "/", body)
                return connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                raise Gone from error

        client = XmlClient(send)
        client.connection = connection
        return client


class Worker(threading.Thread):
    """A client that makes and removes VMs and disks, and remembers what it was told.

    :ivar there: (class, ref) that must be found
    :ivar gone: (class, ref) that must not be found
    :ivar content: VDI to the number that its data was made of; what a write was under
        way for is not in it
    """

    def __init__(self, process, sr, seed):
        super().__init__(daemon=True)
        self.process, self.sr = process, sr
        self.random = random.Random(seed)
        self.there, self.gone = set(), set()
        self.doubtful = set()
        self.content = {}
        self.failed = None

    def run(self):
        try:
            client = self.process.client()
            with contextlib.closing(client.connection):
                while True:
                    # Another client may use or remove the same meanwhile.
                    with contextlib.suppress(Refused):
                        self.random.choice(self.DEEDS)(self, client)
        except Gone:
            return
        except BaseException as error:
            self.failed = error
            raise

    def made(self, cls, ref):
        self.there.add((cls, ref))
        return ref

    def destroy(self, client, cls, ref):
        self.there.discard((cls, ref))
        self.doubtful.add((cls, ref))
        with contextlib.suppress(Refused):
            client.call(f"{cls}.destroy", ref)
            self.gone.add((cls, ref))

    def pick(self, cls):
        mine = sorted(ref for found, ref in self.there if found == cls)
        return self.random.choice(mine) if mine else None

    def make_guest(self, client):
        vm = self.made("VM", client.call("VM.create", vm_record()))
        vdi = self.make_disk(client)
        self.made("VBD", client.call("VBD.create", vbd_record(vm, vdi)))
        client.call("VM.start", vm, False, False)

    def make_disk(self, client):
        size = str(self.random.choice((4, 64, 200)) * 1024 * 1024)
        record = vdi_record(self.sr, virtual_size=size)
        return self.disk(client.call("VDI.create", record), NOTHING)

    def disk(self, ref, number):
        if number is not None:
            self.content[ref] = number
        return self.made("VDI", ref)

    def write(self, client):
        vdi = self.pick("VDI")
        if vdi is None or client.call("VDI.get_VBDs", vdi):
            return
        self.content.pop(vdi, None)
        number = self.random.randrange(1, 10**9)
        carrier = Carrier(self.process, client.session)
        try:
            task = carrier.put("/import_raw_vdi", data(number), client, vdi=vdi)
        except (OSError, http.client.HTTPException) as error:
            raise Gone from error
        if task["status"] == "success":
            self.content[vdi] = number

    def derive(self, client):
        vdi = self.pick("VDI")
        if vdi:
            how = self.random.choice(("VDI.snapshot", "VDI.clone"))
            self.disk(client.call(how, vdi, {}), self.content.get(vdi))

    def copy(self, client):
        vdi = self.pick("VDI")
        if vdi:
            new = client.call("VDI.copy", vdi, self.sr, NULL, NULL)
            self.disk(new, self.content.get(vdi))

    def grow(self, client):
        vdi = self.pick("VDI")
        if vdi:
            size = int(client.call("VDI.get_virtual_size", vdi)) + 8 * 1024 * 1024
            client.call("VDI.resize", vdi, str(size))

    def drop_disk(self, client):
        vdi = self.pick("VDI")
        if vdi and not client.call("VDI.get_VBDs", vdi):
            self.destroy(client, "VDI", vdi)

    def drop_guest(self, client):
        vm = self.pick("VM")
        if vm is None:
            return
        if client.call("VM.get_power_state", vm) == "Running":
            client.call("VM.hard_shutdown", vm)
        for vbd in client.call("VM.get_VBDs", vm):
            vdi = client.call("VBD.get_VDI", vbd)
            self.destroy(client, "VBD", vbd)
            self.destroy(client, "VDI", vdi)
        self.destroy(client, "VM", vm)

    DEEDS = (
        *(make_guest, make_disk, write, write, derive, derive),
        *(copy, grow, drop_disk, drop_guest),
    )


def referred(type_, value):
    """Yield (class, reference) of all that a field's value names."""
    if type_.kind == "ref":
        if value not in (NULL, ""):
            yield type_.name, value
    elif type_.kind == "set":
        for item in value:
            yield from referred(type_.inner[0], item)
    elif type_.kind == "map":
        for key, item in value.items():
            yield from referred(type_.inner[0], key)
            yield from referred(type_.inner[1], item)


def everything(client):
    """Return all records by class and reference."""
    found = {}
    for cls, model in MODEL.classes.items():
        listed = model.messages.get("get_all_records")
        if listed and not listed.removed and cls not in NO_RECORDS:
            found[cls] = client.call(f"{cls}.get_all_records")
    return found


def dangling(records):
    """Return the fields that name an object that is not there."""
    return [
        (cls, name, target)
        for cls, objects in records.items()
        for record in objects.values()
        for name, about in MODEL.classes[cls].fields.items()
        if name in record and (cls, name) not in MAY_DANGLE
        for target in referred(about.type, record[name])
        if target[0] in records and target[1] not in records[target[0]]
    ]


def one_sided(records):
    """Return relations of which only one side knows."""
    found = []
    for (cls, name), (other, many) in MODEL.relations:
        seen = [(cls, name), (other, many)]
        if cls == other or not all(_is_seen(records, *side) for side in seen):
            continue
        forth = {
            (ref, target)
            for ref, record in records[cls].items()
            for _, target in referred(
                MODEL.classes[cls].fields[name].type, record[name]
            )
        }
        back = {
            (item, ref)
            for ref, record in records[other].items()
            for item in record[many]
        }
        found += [(cls, name, pair) for pair in forth ^ back]
    return found


def _is_seen(records, cls, name):
    """Return whether clients see the field."""
    return cls in records and MODEL.classes[cls].fields[name].flag != "internal"


def assert_disks_fit(records, sr, path):
    """Each disk has its file, each file its record, and every chain can be read."""
    known = {
        record["location"]: record
        for record in records["VDI"].values()
        if record["SR"] == sr
    }
    store = SrStore(path, GIB)
    found = store.scan()
    assert set(found) == set(known)
    assert sorted(path.name for path in path.iterdir()) == sorted(
        f"{name}.vhd" for name in known
    )
    for name, info in found.items():
        assert int(known[name]["virtual_size"]) == info.virtual_size
        assert known[name]["managed"] is not info.hidden
        assert store.virtual_size(name) == info.virtual_size
        list(store.data(name))


def assert_content(records, path, content):
    """What a client was told is written is there, in clones and copies too."""
    store = SrStore(path, GIB)
    for ref, number in content.items():
        if ref in records:
            name = records[ref]["location"]
            expected = data(number)[: store.virtual_size(name)]
            assert store.read(name, 0, len(expected)) == expected, (ref, number)


def tidy_records(client, sr, path, seconds=10):
    """Return all records once they fit each other and the files.

    The collector goes on with its work after a start, a file first and then its
    record, and the classes are read one by one: so they may differ for a moment, but
    not for good.
    """
    end = time.monotonic() + seconds
    while True:
        records = everything(client)
        try:
            assert dangling(records) == []
            assert one_sided(records) == []
            assert_disks_fit(records, sr, path)
        except (AssertionError, StorageError, FileNotFoundError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return records


@pytest.mark.parametrize("seed", [SEED])
def test_a_kill_at_any_moment_leaves_a_whole_state(tmp_path, seed):
    chance = random.Random(seed)
    there, gone, content = set(), set(), {}
    for number in range(ROUNDS):
        process = Process(tmp_path / "state")
        try:
            sr, path = look(process, tmp_path, (there, gone, content))
            workers = [Worker(process, sr, chance.random()) for _ in range(CLIENTS)]
            # They go on with what is there: half of it is each one's own.
            for cls, ref in sorted(there):
                worker = chance.choice(workers)
                worker.there.add((cls, ref))
                if ref in content:
                    worker.content[ref] = content[ref]
            for worker in workers:
                worker.start()
            time.sleep(chance.uniform(0.02, 0.8))
        finally:
            process.kill()
        for worker in workers:
            worker.join(10)
            assert worker.failed is None, (seed, number, worker.failed)
        gone = gone.union(*(worker.gone for worker in workers))
        content = {}
        for worker in workers:
            content.update(worker.content)
        # A guest and its disk may be two clients': what one removed the other had.
        doubtful = set().union(*(worker.doubtful for worker in workers))
        there = set().union(*(worker.there for worker in workers)) - gone - doubtful
    process = Process(tmp_path / "state")
    try:
        look(process, tmp_path, (there, gone, content))
    finally:
        process.kill()
    assert len(gone) > 10


def look(process, tmp_path, known):
    """Check the state after a restart; return the SR and where its files are."""
    there, gone, content = known
    client = process.client()
    with contextlib.closing(client.connection):
        pool = client.call("pool.get_all_records").popitem()[1]
        sr = pool["default_SR"]
        uuid = client.call("SR.get_uuid", sr)
        path = tmp_path / "state/dom0/run/sr-mount" / uuid
        records = tidy_records(client, sr, path)
        missing = [one for one in there if one[1] not in records[one[0]]]
        assert missing == []
        back = [one for one in gone if one[1] in records[one[0]]]
        assert back == []
        assert_content(records["VDI"], path, content)
        client.call("session.logout")
    return sr, path
