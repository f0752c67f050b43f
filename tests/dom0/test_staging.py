# SPDX-License-Identifier: Apache-2.0
"""Calls that end in the middle: what they leave, and for how long."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import pytest
from xenapi_dom0 import failures, sr_lock, staging

from tests.dom0 import archives
from tests.dom0.image_server import Answer
from tests.dom0.vhd_files import VhdFile

TRY_LOCK = """
import fcntl, sys
lock = open(sys.argv[1], "w")
try:
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(1)
"""
IMAGE = archives.image([VhdFile(fill=1)], compress=False)


@pytest.fixture
def half_way(host, images, download):
    """Start a download that stalls in the middle of a disk; give its process."""
    request = download(urls=[images.url + "/stalling"])
    images.answers["/stalling"] = Answer(IMAGE, stall_at=1500000)
    process = host.start_call("glance", "download_vhd", request)
    deadline = time.monotonic() + 30
    while not any("member-0" in name for name in host.left()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_sigterm_cleans_up_and_ends_by_the_signal(host, half_way):
    half_way.terminate()
    out, err = half_way.communicate(timeout=30)
    assert half_way.returncode == -signal.SIGTERM
    assert (out, err) == (b"", b"")
    assert host.left() == []


def test_what_a_killed_call_left_goes_with_the_next_call(host, half_way, fetch):
    half_way.kill()
    half_way.communicate(timeout=30)
    assert host.left() != []
    said = fetch(Answer(IMAGE))
    assert [said["root"]["uuid"] + ".vhd"] == host.left()


def test_the_next_call_cleans_up_even_if_it_fails(host, half_way, fetch):
    half_way.kill()
    half_way.communicate(timeout=30)
    with contextlib.suppress(Exception):
        fetch(Answer(status=404))
    assert host.left() == []


def test_a_call_that_runs_is_left_alone(host, half_way, fetch):
    before = host.left()
    said = fetch(Answer(IMAGE))
    assert sorted(before + [said["root"]["uuid"] + ".vhd"]) == host.left()
    assert half_way.poll() is None


class TestPlacing:
    """Killed between two renames: the journal tells the next call."""

    @pytest.fixture
    def sr(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XENAPI_DOM0_ROOT", str(tmp_path))
        path = tmp_path / "run/sr-mount" / str(uuid.uuid4())
        path.mkdir(parents=True)
        return path

    def files(self, folder, uuids):
        for name in uuids:
            with open(os.path.join(folder, name + ".vhd"), "w") as out:
                out.write(name)

    def test_leaf_last_and_back_if_it_fails(self, sr, monkeypatch):
        leaf, mid, base = uuids = [str(uuid.uuid4()) for _ in range(3)]
        rename = os.rename
        seen = []

        def failing(source, target):
            if target.endswith(leaf + ".vhd"):
                seen.extend(sorted(os.listdir(sr)))
                raise OSError(28, "No space left on device")
            rename(source, target)

        monkeypatch.setattr(os, "rename", failing)
        with pytest.raises(failures.Failure) as caught, staging.folder(sr) as folder:
            self.files(folder, uuids)
            staging.place(folder, str(sr), uuids)
        assert caught.value.code == failures.NO_SPACE
        assert {mid + ".vhd", base + ".vhd"} < set(seen)
        assert os.listdir(sr) == []

    def test_a_disk_that_came_while_the_lock_was_waited_for_stays(
        self, sr, monkeypatch
    ):
        _leaf, base = uuids = [str(uuid.uuid4()) for _ in range(2)]
        held = sr_lock.held

        @contextlib.contextmanager
        def late(sr_path):
            # Another call with the same UUIDs, or another host.
            (sr / f"{base}.vhd").write_text("somebody's")
            with held(sr_path):
                yield

        monkeypatch.setattr(sr_lock, "held", late)
        with pytest.raises(failures.Failure) as caught, \
                staging.folder(str(sr)) as folder:
            self.files(folder, uuids)
            staging.place(folder, str(sr), uuids)
        assert caught.value.code == failures.BAD_ARGUMENT
        assert os.listdir(sr) == [f"{base}.vhd"]
        assert (sr / f"{base}.vhd").read_text() == "somebody's"

    def test_the_next_call_takes_back_half_a_chain(self, sr):
        leaf, base = uuids = [str(uuid.uuid4()) for _ in range(2)]
        other = str(uuid.uuid4()) + ".vhd"
        (sr / other).write_text("somebody's")
        pid = os.fork()
        if pid == 0:
            rename = os.rename

            def dying(source, target):
                rename(source, target)
                os.kill(os.getpid(), signal.SIGKILL)

            os.rename = dying
            with staging.folder(str(sr)) as folder:
                self.files(folder, uuids)
                staging.place(folder, str(sr), uuids)
        os.waitpid(pid, 0)
        assert base + ".vhd" in os.listdir(sr)
        staging.sweep(str(sr))
        assert [other] == os.listdir(sr)

    def test_a_whole_chain_stays_when_its_call_died_after_it(self, sr):
        uuids = [str(uuid.uuid4()) for _ in range(2)]
        pid = os.fork()
        if pid == 0:
            with staging.folder(str(sr)) as folder:
                self.files(folder, uuids)
                staging.place(folder, str(sr), uuids)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        staging.sweep(str(sr))
        assert sorted(name + ".vhd" for name in uuids) == sorted(os.listdir(sr))

    def test_a_link_that_looks_like_a_folder_is_not_followed(self, sr, tmp_path):
        target = tmp_path / "precious"
        target.mkdir()
        (target / "lock").write_text("")
        (sr / (staging._prefix() + "x")).symlink_to(target)
        staging.sweep(str(sr))
        assert (target / "lock").exists()

    @pytest.mark.parametrize("journal", [
        "7", "[7]", '[["x"]]', '{"a": 1}', "[" * 60000, '["../../precious"]', None,
    ])
    def test_a_journal_of_somebody_else_is_not_believed(self, sr, tmp_path, journal):
        precious = tmp_path / "precious.vhd"
        precious.write_text("")
        folder = sr / (staging._prefix() + "x")
        folder.mkdir()
        if journal is None:
            # Nobody writes to it: who opened it for reading would wait.
            os.mkfifo(folder / "placing")
        else:
            (folder / "placing").write_text(journal)
        staging.sweep(str(sr))
        assert os.listdir(sr) == [] and precious.exists()

    def test_a_folder_that_became_a_link_is_not_followed(
        self, sr, tmp_path, monkeypatch
    ):
        precious = tmp_path / "precious"
        precious.mkdir()
        for name in ("lock", "file"):
            (precious / name).write_text("")
        clear = staging._clear

        def exchanged(sr_path, path, *lock):
            # Another host that writes to the SR, at the worst moment.
            os.rename(path, path + ".away")
            os.symlink(precious, path)
            clear(sr_path, path, *lock)

        monkeypatch.setattr(staging, "_clear", exchanged)
        with staging.folder(str(sr)) as folder:
            os.mkdir(os.path.join(folder, "tree"))
        assert sorted(os.listdir(precious)) == ["file", "lock"]

    def test_a_tree_in_a_folder_goes_with_it(self, sr, tmp_path):
        (tmp_path / "precious").mkdir()
        with staging.folder(str(sr)) as folder:
            os.makedirs(os.path.join(folder, "a/b/c"))
            self.files(os.path.join(folder, "a/b"), ["x"])
            os.symlink(tmp_path, os.path.join(folder, "a/link"))
        assert os.listdir(sr) == []
        assert (tmp_path / "precious").exists()

    def test_a_folder_without_a_lock_goes_too(self, sr):
        (sr / (staging._prefix() + "x")).mkdir()
        staging.sweep(str(sr))
        assert os.listdir(sr) == []

    def test_a_folder_that_is_swept_before_it_has_its_lock_is_made_again(
        self, sr, monkeypatch
    ):
        make = tempfile.mkdtemp
        swept = []

        def slow(**kwargs):
            path = make(**kwargs)
            if not swept:
                staging.sweep(str(sr))
                swept.append(path)
            return path

        monkeypatch.setattr(tempfile, "mkdtemp", slow)
        with staging.folder(str(sr)) as folder:
            assert folder not in swept
            staging.sweep(str(sr))
            assert os.path.isdir(folder)

    def test_a_folder_whose_cleaning_was_killed_goes_at_once(self, sr, monkeypatch):
        pid = os.fork()
        if pid == 0:
            unlink = os.unlink

            def dying(path, **options):
                unlink(path, **options)
                os.kill(os.getpid(), signal.SIGKILL)

            with staging.folder(str(sr)) as folder:
                self.files(folder, ["a", "b"])
                os.unlink = dying
        os.waitpid(pid, 0)
        assert os.listdir(sr) != []
        staging.sweep(str(sr))
        assert os.listdir(sr) == []

    def test_a_scan_does_not_see_the_middle(self, sr, tmp_path, monkeypatch):
        """The storage manager's lock is held while files come into the SR."""
        uuids = [str(uuid.uuid4()) for _ in range(2)]
        lock = tmp_path / "var/lock/sm" / sr.name / "sr"
        rename = os.rename
        free = []

        def looking(source, target):
            rename(source, target)
            # The storage manager's way to ask, from another process.
            free.append(subprocess.call([sys.executable, "-c", TRY_LOCK, str(lock)]))

        monkeypatch.setattr(os, "rename", looking)
        with staging.folder(str(sr)) as folder:
            self.files(folder, uuids)
            staging.place(folder, str(sr), uuids)
        assert free == [1, 1]
        assert subprocess.call([sys.executable, "-c", TRY_LOCK, str(lock)]) == 0

    def test_a_scan_that_runs_is_waited_for_and_then_told(
        self, sr, tmp_path, monkeypatch
    ):
        uuids = [str(uuid.uuid4())]
        lock = tmp_path / "var/lock/sm" / sr.name / "sr"
        lock.parent.mkdir(parents=True)
        scan = subprocess.Popen(
            [sys.executable, "-c", TRY_LOCK + "\nprint(flush=True)\nsys.stdin.read()",
             str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        scan.stdout.readline()
        monkeypatch.setattr(sr_lock, "WAIT", 0.3)
        try:
            with pytest.raises(failures.Failure) as caught, \
                    staging.folder(str(sr)) as folder:
                self.files(folder, uuids)
                staging.place(folder, str(sr), uuids)
        finally:
            scan.communicate(b"")
        assert caught.value.code == failures.BUSY
        assert os.listdir(sr) == []
