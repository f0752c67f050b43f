# SPDX-License-Identifier: Apache-2.0
"""Console logs: their end through the plugin, and their rotation."""

import base64
import json
import os
import random
import subprocess
import time
import zlib

import pytest

from tests.dom0 import console_daemon, guests, plugin_functions, scratch_host
from tests.dom0.scratch_host import PluginFailed
from tests.dom0.test_xenstore import with_store

TREE = scratch_host.PLUGINS.parents[2]
SCRIPT = TREE / "usr/libexec/xenapi-driver/rotate-guest-logs"
FOLDER = "var/log/xen/guest"
NOTES = "var/lib/xenapi-dom0/guest-logs.json"
TAIL = 102400
LIMIT = 1 << 20
OTHER = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


class Consoles:
    """A host whose guests' consoles are logged."""

    def __init__(self, host):
        self.host = host
        self.folder = host.root / FOLDER
        self.folder.mkdir(parents=True)

    def put(self, name, data, age=0):
        file = self.folder / name
        file.write_bytes(data)
        os.utime(file, (time.time() - age,) * 2)

    def names(self):
        return sorted(file.name for file in self.folder.iterdir())

    def log(self, dom_id, **more):
        """Return the bytes and whether they are not all."""
        request = {"dom_id": dom_id, **more}
        answer = self.host.call("console", "get_console_log", request)
        assert sorted(answer) == ["log", "truncated"]
        return zlib.decompress(base64.b64decode(answer["log"])), answer["truncated"]

    def failure(self, dom_id, **more):
        with pytest.raises(PluginFailed) as caught:
            self.log(dom_id, **more)
        return [caught.value.code, *caught.value.params]

    def rotate(self):
        """Run the script as cron does."""
        self.host.dom0.open_xapi()
        done = subprocess.run(
            [self.host.python, str(SCRIPT)],
            env=self.host.environment(),
            cwd="/",
            capture_output=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == (b"", b"")
        return done.returncode

    def last_dom_id(self, domain):
        other = self.host.api.xenapi.VM.get_other_config(domain.vm)
        return other.get("last_dom_id")

    def notes(self):
        return json.loads((self.host.root / NOTES).read_text())

    def forget_that_it_looked(self):
        """Let ten minutes pass."""
        notes = self.notes()
        notes["looked"] -= 601
        (self.host.root / NOTES).write_text(json.dumps(notes))


@pytest.fixture
def consoles(host):
    return Consoles(host)


@pytest.fixture
def old(old_host):
    return Consoles(old_host)


@pytest.fixture
def real(tmp_path, xenstored):
    """The same with Xen's xenstored and a stand-in for xenconsoled."""
    with with_store(tmp_path, "3.6", xenstored) as host:
        found = Consoles(host)
        assert found.rotate() == 0
        found.daemon = console_daemon.ConsoleDaemon(host.tools, host.root)
        yield found
        found.daemon.close()


def test_the_end_of_a_log_is_answered(consoles):
    consoles.put("console.5", b"one\r\n\x1b[31mtwo\xff")
    assert consoles.log(5) == (b"one\r\n\x1b[31mtwo\xff", False)
    noise = random.Random(5).randbytes(3 * TAIL)
    consoles.put("console.5", noise)
    assert consoles.log(5) == (noise[-TAIL:], True)
    consoles.put("console.5", noise[:TAIL])
    assert consoles.log(5) == (noise[:TAIL], False)
    consoles.put("console.5", b"")
    assert consoles.log(5) == (b"", False)


def test_a_rotated_log_goes_on_in_the_older_file(consoles):
    noise = random.Random(6).randbytes(2 * TAIL)
    consoles.put("console.6.1", noise)
    consoles.put("console.6", b"new")
    assert consoles.log(6) == (noise[-TAIL + 3 :] + b"new", True)
    consoles.put("console.6.1", b"old ")
    assert consoles.log(6) == (b"old new", False)
    consoles.put("console.6", noise[:TAIL])
    assert consoles.log(6) == (noise[:TAIL], True)
    (consoles.folder / "console.6").unlink()
    assert consoles.log(6) == (b"old ", False)


def test_no_log_is_told(old):
    assert old.failure(5) == ["NOT_FOUND", "console log of domain 5"]
    old.folder.rmdir()
    assert old.failure(5) == ["NOT_FOUND", "/var/log/xen/guest"]


def test_arguments_are_checked():
    plugin = plugin_functions.load("console")
    for dom_id in (0, "5", "5/../../x", None, 1.0, 40000):
        request = {"dom_id": dom_id}
        found = plugin_functions.refusal(plugin, "get_console_log", request)
        assert found[:2] == ["BAD_ARGUMENT", "dom_id"], dom_id
    for name, value in (("vm_uuid", "x"), ("length", 7)):
        request = {"dom_id": 5, name: value}
        found = plugin_functions.refusal(plugin, "get_console_log", request)
        assert found[:2] == ["BAD_ARGUMENT", name]


def test_only_plain_files_are_read(old, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (old.folder / "console.1").symlink_to(secret)
    os.mkfifo(old.folder / "console.2")
    (old.folder / "console.3").mkdir()
    (old.folder / "console.4").hardlink_to(secret)
    for dom_id in (1, 2, 3, 4):
        assert old.failure(dom_id)[0] == "NOT_PERMITTED", dom_id
    assert old.rotate() == 0
    assert old.names() == ["console.1", "console.2", "console.3", "console.4"]
    assert secret.read_text() == "secret"


def test_a_log_is_not_shown_as_another_vms(old):
    domain = guests.Domain(old.host)
    old.put(f"console.{domain.id}", b"mine")
    assert old.log(domain.id, vm_uuid=domain.uuid)[0] == b"mine"
    found = ["NOT_FOUND", f"console log of domain {domain.id} of this VM"]
    assert old.failure(domain.id, vm_uuid=OTHER) == found
    assert old.rotate() == 0
    dom_id = domain.id
    domain.stop()
    assert old.log(dom_id, vm_uuid=domain.uuid)[0] == b"mine"
    assert old.failure(dom_id, vm_uuid=OTHER) == [
        "NOT_FOUND",
        f"console log of domain {dom_id} of this VM",
    ]


class TestRotation:
    def test_consoles_are_logged_and_found(self, consoles):
        domain = guests.Domain(consoles.host)
        assert consoles.last_dom_id(domain) is None
        assert consoles.rotate() == 0
        store = consoles.host.dom0.xenstore
        assert store.read("/local/logconsole/@") == b"/var/log/xen/guest/console.%d"
        assert consoles.last_dom_id(domain) == str(domain.id)
        domain.reboot()
        assert consoles.rotate() == 0
        assert consoles.last_dom_id(domain) == str(domain.id)
        # Once more changes nothing.
        before = consoles.notes()
        assert consoles.rotate() == 0
        assert consoles.notes() == before

    def test_a_full_log_is_put_aside_and_nothing_is_lost(self, real):
        domain = guests.Domain(real.host)
        first = random.Random(1).randbytes(LIMIT + 1)
        real.daemon.write(domain.id, first)
        assert real.rotate() == 0
        name = f"console.{domain.id}"
        wait_until(lambda: real.daemon.reopened)
        real.daemon.write(domain.id, b"afterwards")
        wait_until(lambda: real.names() == [name, f"{name}.1"])
        assert (real.folder / f"{name}.1").read_bytes() == first
        assert (real.folder / name).read_bytes() == b"afterwards"
        log, truncated = real.log(domain.id, vm_uuid=domain.uuid)
        assert (log, truncated) == (first[-TAIL + 10 :] + b"afterwards", True)
        assert real.host.tools.names("/local/logconsole") == ["@"]
        # What is small stays.
        before = len(real.daemon.reopened)
        assert real.rotate() == 0
        assert len(real.daemon.reopened) == before

    def test_a_flood_is_cut(self, real):
        domain = guests.Domain(real.host)
        noise = random.Random(2).randbytes(4 * LIMIT)
        real.daemon.write(domain.id, noise)
        assert real.rotate() == 0
        older = real.folder / f"console.{domain.id}.1"
        assert older.read_bytes() == noise[-LIMIT:]

    def test_a_daemon_that_does_not_listen_does_not_fill_the_disk(self, real):
        domain = guests.Domain(real.host)
        real.daemon.deaf = True
        for number in range(3):
            real.daemon.write(domain.id, bytes([65 + number]) * 3 * LIMIT)
            assert real.rotate() == 0
            assert sum(f.stat().st_size for f in real.folder.iterdir()) <= 2 * LIMIT
        log, truncated = real.log(domain.id)
        assert (log, truncated) == (b"C" * TAIL, True)
        real.daemon.deaf = False
        # It was asked each time, so it is asked now.
        assert real.rotate() == 0
        wait_until(lambda: real.daemon.reopened)

    def test_logs_that_nobody_is_told_to_have_written_go(self, old):
        stays, goes = guests.Domain(old.host), guests.Domain(old.host, "goes")
        ids = stays.id, goes.id
        assert old.rotate() == 0
        for domain in (stays, goes):
            old.put(f"console.{domain.id}", b"x", age=700)
            old.put(f"console.{domain.id}.1", b"x", age=700)
            domain.stop()
        old.put("console.77", b"x", age=700)
        old.put("console.78", b"x", age=100)
        old.put("console.log", b"not ours", age=700)
        old.host.api.xenapi.VM.destroy(goes.vm)
        assert old.rotate() == 0
        kept = [f"console.{ids[0]}", f"console.{ids[0]}.1", "console.78", "console.log"]
        assert old.names() == sorted(kept)
        assert old.log(ids[0], vm_uuid=stays.uuid)[0] == b"xx"

    def test_a_vm_that_claims_an_id_that_is_none_hinders_nothing(self, old):
        liar = guests.Domain(old.host)
        liar.stop()
        old.host.api.xenapi.VM.remove_from_other_config(liar.vm, "last_dom_id")
        old.host.api.xenapi.VM.add_to_other_config(liar.vm, "last_dom_id", "\u00b2")
        old.put("console.77", b"x", age=700)
        assert old.rotate() == 0
        assert old.names() == []

    def test_all_vms_are_asked_for_every_ten_minutes_only(self, old):
        old.put("console.77", b"x", age=700)
        assert old.rotate() == 0
        assert old.names() == []
        old.put("console.77", b"x", age=700)
        assert old.rotate() == 0
        assert old.names() == ["console.77"]
        old.forget_that_it_looked()
        assert old.rotate() == 0
        assert old.names() == []

    def test_another_vm_with_the_same_id_begins_with_an_empty_log(self, real):
        domain = guests.Domain(real.host)
        real.daemon.write(domain.id, b"the first tenant's")
        real.put(f"console.{domain.id}.1", b"the first tenant's as well")
        # As after the host's restart: the id is another VM's.
        notes = real.notes()
        notes["owners"][str(domain.id)] = OTHER
        (real.host.root / NOTES).write_text(json.dumps(notes))
        found = ["NOT_FOUND", f"console log of domain {domain.id} of this VM"]
        for whose in (domain.uuid, OTHER, None):
            assert real.failure(domain.id, vm_uuid=whose) == found
        assert real.rotate() == 0
        wait_until(lambda: real.daemon.reopened)
        real.daemon.write(domain.id, b"the second tenant's")
        assert real.log(domain.id, vm_uuid=domain.uuid) == (
            b"the second tenant's",
            False,
        )
        assert real.failure(domain.id, vm_uuid=OTHER) == found

    def test_notes_that_are_rubbish_are_begun_anew(self, old):
        file = old.host.root / NOTES
        file.parent.mkdir(parents=True)
        told = '{"owners": 5, "told": {"x": 1}, "looked": "x"}'
        for text in ("[]", told, "{"):
            file.write_text(text)
            assert old.rotate() == 0
            domain = guests.Domain(old.host)
            assert old.rotate() == 0
            assert old.notes()["owners"][str(domain.id)] == domain.uuid
            assert old.last_dom_id(domain) == str(domain.id)

    def test_without_xapi_the_rest_is_done(self, old):
        domain = guests.Domain(old.host)
        old.put(f"console.{domain.id}", b"x" * 3 * LIMIT)
        link = old.host.dom0.open_xapi()
        link.unlink()
        assert old.rotate() == 0
        assert (old.folder / f"console.{domain.id}.1").stat().st_size == LIMIT
        assert old.last_dom_id(domain) is None

    def test_a_run_in_which_the_notes_cannot_be_kept_is_told(self, old):
        file = old.host.root / NOTES
        file.parent.mkdir(parents=True)
        file.with_suffix(".json.new").mkdir()
        assert old.rotate() == 1

    def test_without_a_store_it_says_so_by_its_code(self, old, tmp_path):
        environment = {**old.host.environment(), "XENSTORED_PATH": str(tmp_path / "no")}
        old.host.environment = lambda: environment
        assert old.rotate() == 1


def test_what_cron_runs_is_what_is_installed():
    line = (TREE / "etc/cron.d/xenapi-driver-guest-logs").read_text().splitlines()[-1]
    *when, user, command = line.split()
    assert (when, user) == (["*"] * 5, "root")
    assert command == f"/{SCRIPT.relative_to(TREE)}"


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
