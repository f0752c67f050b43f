# SPDX-License-Identifier: Apache-2.0
"""Chains that go from host to host by real rsync and ssh, and into the other's SR."""

import hashlib
import os
import random
import subprocess
import time
import uuid

import pytest
from xenapi_dom0 import failures, peer, serve

from tests.dom0 import chain_reader, golden, killing, neighbours, switches, vhd_files
from tests.dom0.scratch_host import PluginFailed, answer
from tests.dom0.vhd_files import VhdFile

LABEL = "6c1f3a52-8e0b-4a8f-9a5a-1f0f4f4c8d11"


def new_uuids(count):
    return [str(uuid.uuid4()) for _ in range(count)]


def put_chain(host, names=("leaf", "mid", "base")):
    """Put golden disks into the SR as a host keeps them; return UUIDs, leaf first."""
    uuids = new_uuids(len(names))
    for name, disk in zip(names, uuids, strict=True):
        (host.sr / f"{disk}.vhd").write_bytes(golden.read(name))
    return uuids


def state(folder):
    """Return what is in a folder and whether anybody touched it."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(),
                    path.stat().st_mtime_ns, path.stat().st_nlink)
        for path in folder.iterdir() if path.is_file()
    }


def fails(host, fn, request):
    with pytest.raises(PluginFailed) as caught:
        host.call("migration", fn, request)
    return caught.value.code, " ".join(caught.value.params)


@pytest.fixture
def bed(tmp_path):
    """Return a function that makes a neighbour of a host."""
    made = []

    def make(host):
        made.append(neighbours.Neighbour(host, tmp_path / "other"))
        return made[0]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def other(bed, old_host):
    return bed(old_host)


def sending(sender, uuids, **changes):
    request = {
        "instance_uuid": LABEL, "host": neighbours.TARGET, "sr_path": sender.sr_path,
        "vdi_uuids": uuids, "seq_num": 0, "fresh": True,
    }
    request.update(changes)
    return {name: value for name, value in request.items() if value is not None}


def taking(host, **changes):
    request = {
        "instance_uuid": LABEL, "sr_path": host.sr_path, "uuid_stack": new_uuids(16),
        "disks": None,
    }
    request.update(changes)
    return request


def arrived(host, disks=()):
    """Put a chain into the host's own ``/images``, as another one sent it."""
    folder = host.root / "images" / f"instance{LABEL}"
    folder.mkdir()
    disks = disks or [golden.read(name) for name in ("leaf", "mid", "base")]
    for number, disk in enumerate(disks):
        (folder / f"{number}.vhd").write_bytes(bytes(disk))
    return folder


def reads_as(path, name):
    chain_reader.assert_reads_as(path, golden.CONTENT[name])


def test_a_chain_goes_over_and_the_source_stays(host, bed):
    other = bed(host)
    uuids = put_chain(host)
    before = state(host.sr)
    request = sending(host, uuids[1:], seq_num=1)
    sent = host.call("migration", "transfer_chain", request)
    one = sending(host, None, vdi_uuids=None, fresh=None, vdi_uuid=uuids[0])
    leaf = host.call("migration", "transfer_vhd", one)
    folder = other.images / f"instance{LABEL}"
    assert {path.name for path in folder.iterdir()} == {"0.vhd", "1.vhd", "2.vhd"}
    for number, disk in enumerate(uuids):
        source = host.sr / f"{disk}.vhd"
        assert (folder / f"{number}.vhd").read_bytes() == source.read_bytes()
    assert state(host.sr) == before
    assert sent["bytes"] + leaf["bytes"] == sum(
        (host.sr / f"{disk}.vhd").stat().st_size for disk in uuids
    )


def test_what_arrived_is_taken_in_whole(host):
    folder = arrived(host)
    request = taking(host, disks=3)
    said = host.call("migration", "move_vhds_into_sr", request)
    assert said["chain"] == request["uuid_stack"][::-1][:3]
    assert host.left() == sorted(f"{disk}.vhd" for disk in said["chain"])
    files = chain_reader.chain_files(host.sr / f"{said['chain'][0]}.vhd")
    assert [path.stem for path in files] == said["chain"]
    assert [chain_reader.hidden(path) for path in files] == [False, True, True]
    reads_as(files[0], "leaf")
    raw = host.root / "base.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(files[2]), str(raw)],
        check=True,
    )
    assert hashlib.sha256(raw.read_bytes()).hexdigest() == golden.CONTENT["base"]
    assert not folder.exists()
    # A caller that lost the answer asks again.
    assert host.call("migration", "move_vhds_into_sr", request) == said


def test_to_ourselves_it_needs_no_ssh(old_host, other):
    uuids = put_chain(old_host)
    other.stop()
    request = sending(old_host, uuids, host=neighbours.SOURCE)
    old_host.call("migration", "transfer_chain", request)
    folder = old_host.root / "images" / f"instance{LABEL}"
    assert (folder / "0.vhd").read_bytes() == golden.read("leaf")
    assert (folder / "0.vhd").stat().st_nlink == 1
    said = old_host.call("migration", "move_vhds_into_sr", taking(old_host))
    reads_as(old_host.sr / f"{said['chain'][0]}.vhd", "leaf")


def test_by_an_ipv6_address(old_host, other):
    uuids = put_chain(old_host)
    request = sending(old_host, uuids[:1], host=neighbours.TARGET_6)
    old_host.call("migration", "transfer_chain", request)
    assert (other.images / f"instance{LABEL}/0.vhd").exists()


def test_numbers_of_an_earlier_attempt_go(old_host, other):
    folder = other.images / f"instance{LABEL}"
    folder.mkdir()
    for stale in ("0.vhd", "3.vhd", ".2.vhd.Xa81Qk"):
        (folder / stale).write_text("stale")
    uuids = put_chain(old_host)
    old_host.call(
        "migration", "transfer_chain", sending(old_host, uuids[1:], seq_num=1)
    )
    assert {path.name for path in folder.iterdir()} == {"1.vhd", "2.vhd"}


class TestRefused:
    """One clear failure at once, whatever ssh or rsync says."""

    @pytest.fixture
    def request_(self, old_host):
        return sending(old_host, put_chain(old_host))

    def refused(self, host, other, request):
        began = time.monotonic()
        code, text = fails(host, "transfer_chain", request)
        assert time.monotonic() - began < 30
        assert [name for name in host.left() if "staging" in name] == []
        assert list(other.images.iterdir()) == []
        return code, text

    def test_a_key_that_is_not_accepted(self, old_host, other, request_):
        neighbours.make_key(other.ssh / "id_ed25519")
        code, text = self.refused(old_host, other, request_)
        assert code == "NOT_PERMITTED"
        assert "authorized_keys" in text and "Permission denied" in text

    def test_no_key_at_all(self, old_host, other, request_):
        (other.ssh / "id_ed25519").unlink()
        code, text = self.refused(old_host, other, request_)
        assert (code, "authorized_keys" in text) == ("NOT_PERMITTED", True)

    def test_no_ssh_server(self, old_host, other, request_):
        other.stop()
        code, text = self.refused(old_host, other, request_)
        assert code == "COMMAND_FAILED"
        assert "Connection refused" in text

    def test_a_server_that_says_nothing(self, old_host, other, request_):
        other.stop()
        silent = other.space.start(
            "/usr/bin/python3", "-c",
            "import socket, time\ns = socket.socket(); s.bind(('', 22)); s.listen(5)\n"
            "while True: c = s.accept()",
        )  # fmt: skip
        neighbours.wait_for(lambda: ":22 " in other.space.run("ss", "-Hltn"))
        try:
            code, text = self.refused(old_host, other, request_)
        finally:
            silent.kill()
            silent.wait()
        assert (code, "timed out" in text) == ("COMMAND_FAILED", True)

    def test_a_host_key_that_changed(self, old_host, other, request_):
        old_host.call("migration", "transfer_chain", request_)
        assert neighbours.TARGET in (other.ssh / "known_hosts").read_text()
        old_host.call("migration", "discard",
                      {"instance_uuid": LABEL, "host": neighbours.TARGET})
        other.stop()
        neighbours.make_key(other.folder / "host_key")
        other.start()
        code, text = self.refused(old_host, other, request_)
        assert code == "NOT_PERMITTED"
        assert "ssh-keygen -R" in text

    def test_a_host_never_met_where_that_is_asked(self, old_host, other, request_):
        code, text = self.refused(
            old_host, other, dict(request_, ssh_host_keys="strict")
        )
        assert code == "NOT_PERMITTED"
        assert not (other.ssh / "known_hosts").exists()

    def test_no_folder_images(self, old_host, other, request_):
        other.images.rmdir()
        code, text = fails(old_host, "transfer_chain", request_)
        assert code == "NOT_FOUND"
        assert "/images" in text and neighbours.TARGET in text

    def test_a_vdi_that_is_not_there(self, old_host, other):
        gone = str(uuid.uuid4())
        code, text = self.refused(old_host, other, sending(old_host, [gone]))
        assert (code, gone in text) == ("NOT_FOUND", True)

    def test_a_vdi_that_is_a_link(self, old_host, other):
        disk = str(uuid.uuid4())
        (old_host.sr / f"{disk}.vhd").symlink_to("/etc/shadow")
        code, _text = self.refused(old_host, other, sending(old_host, [disk]))
        assert code == "NOT_PERMITTED"


class TestCut:
    """A transfer that ends in the middle, and goes on."""

    @pytest.fixture
    def big(self, old_host):
        """A disk in the SR with data that nothing compresses; its UUID."""
        disk = str(uuid.uuid4())
        data = bytes(VhdFile(fill=1))
        noise = random.Random(1).getrandbits(8 * vhd_files.BLOCK)
        start = vhd_files.DATA + 512
        (old_host.sr / f"{disk}.vhd").write_bytes(
            data[:start] + noise.to_bytes(vhd_files.BLOCK, "little") + data[-512:]
        )
        return disk

    def slow(self, host, options="--bwlimit=1500"):
        log = host.root / "rsync.log"
        host.wrap(
            "rsync",
            f"#!/bin/sh\nexec /usr/bin/rsync {options} --log-file={log} "
            '--log-file-format="moved %b" "$@"\n',
        )
        return log

    def begun(self, folder):
        """Say whether rsync has written a part of a file."""
        return any(
            path.stat().st_size > 300000 for path in folder.glob(".[0-9]*")
            if path.is_file()
        )

    @pytest.mark.parametrize("whom", ["the plugin", "the other side"])
    def test_killed_in_the_middle(self, old_host, other, big, whom):
        before = state(old_host.sr)
        folder = other.images / f"instance{LABEL}"
        log = self.slow(old_host)
        request = sending(old_host, [big])
        call = old_host.start_call("migration", "transfer_chain", request)
        neighbours.wait_for(lambda: self.begun(folder))
        if whom == "the plugin":
            call.kill()
        else:
            other.stop()
        out, err = call.communicate(timeout=60)
        if whom != "the plugin":
            other.start()
            with pytest.raises(PluginFailed) as caught:
                answer(out)
            assert (caught.value.code, err) == ("COMMAND_FAILED", b"")
        if whom == "the plugin":
            # rsync over there has put aside what came.
            neighbours.wait_for(lambda: not self.begun(folder))
        # Half a file never has the name of a whole one.
        assert not (folder / "0.vhd").exists()
        log.write_text("")
        self.slow(old_host, "")
        old_host.call("migration", "transfer_chain", request)
        assert {path.name for path in folder.iterdir()} == {"0.vhd"}
        source = old_host.sr / f"{big}.vhd"
        assert (folder / "0.vhd").read_bytes() == source.read_bytes()
        assert state(old_host.sr) == before
        assert old_host.left() == [source.name]
        if whom == "the plugin":
            # What had come over did not go again.
            moved = int(log.read_text().split("moved ")[-1].split()[0])
            assert moved < source.stat().st_size - 200000

    def test_a_disk_that_is_written_to_meanwhile(self, old_host, other, big):
        disk = old_host.sr / f"{big}.vhd"
        old_host.wrap(
            "rsync",
            f'#!/bin/sh\n/usr/bin/rsync "$@"; code=$?; echo >> {disk}; exit $code\n',
        )
        code, text = fails(old_host, "transfer_chain", sending(old_host, [big]))
        assert (code, big in text) == ("BUSY", True)

    def test_two_calls_for_one_chain_go_one_after_the_other(
        self, old_host, other, big
    ):
        log = old_host.root / "turns"
        old_host.wrap(
            "rsync",
            f'#!/bin/sh\necho in >> {log}; /usr/bin/rsync --bwlimit=4000 "$@"; '
            f"code=$?; echo out >> {log}; exit $code\n",
        )
        request = sending(old_host, [big])
        calls = [
            old_host.start_call("migration", "transfer_chain", request)
            for _ in range(2)
        ]
        for call in calls:
            answer(call.communicate(timeout=60)[0])
        assert log.read_text().split() == ["in", "out", "in", "out"]

    def test_a_full_disk_on_the_other_side(self, old_host, other, big):
        with killing.own_file_system(other.images, "1m"):
            other.stop()
            other.start()  # a namespace sees what was mounted before it
            code, text = fails(old_host, "transfer_chain", sending(old_host, [big]))
        assert neighbours.TARGET in text
        # The other side's own words do not always make it through.
        assert code == "NO_SPACE" or "full?" in text

    def test_progress_rises_to_the_whole(self, old_host, tmp_path, monkeypatch, big):
        monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
        self.slow(old_host, "--bwlimit=3000")
        (tmp_path / "staging/send").mkdir(parents=True)
        os.link(old_host.sr / f"{big}.vhd", tmp_path / "staging/send/0.vhd")
        told = []
        peer.send(
            str(tmp_path / "staging/send"), "/images/x",
            peer.Peer("127.0.0.1", 22, None, False), told.append, False,
        )
        assert told == sorted(told) and told[-1] == 1.0
        assert len([fraction for fraction in told if 0 < fraction < 1]) > 0


class TestTakingIn:
    """What cannot be taken in stays where it is, and the SR as it was."""

    def refused(self, host, **changes):
        code, text = fails(host, "move_vhds_into_sr", taking(host, **changes))
        assert host.left() == []
        return code, text

    def test_nothing_came(self, old_host):
        code, text = self.refused(old_host)
        assert (code, f"instance{LABEL}" in text) == ("NOT_FOUND", True)

    @pytest.mark.parametrize("gone", [0, 1])
    def test_a_number_is_missing(self, old_host, gone):
        """The bases went over, the leaf did not: that is no disk to boot from."""
        folder = arrived(old_host)
        (folder / f"{gone}.vhd").unlink()
        before = state(folder)
        code, text = self.refused(old_host)
        assert (code, f"number {gone}" in text) == ("IMAGE_CORRUPT", True)
        assert state(folder) == before

    def test_only_a_base_came(self, old_host):
        folder = arrived(old_host)
        for name in ("0.vhd", "1.vhd"):
            (folder / name).unlink()
        assert self.refused(old_host)[0] == "IMAGE_CORRUPT"

    def test_more_came_than_were_sent(self, old_host):
        folder = arrived(old_host)
        before = state(folder)
        code, text = self.refused(old_host, disks=2)
        assert (code, "3 disks" in text) == ("IMAGE_CORRUPT", True)
        assert state(folder) == before

    def test_a_disk_of_an_earlier_attempt(self, old_host):
        folder = arrived(old_host)
        (folder / "2.vhd").write_bytes(golden.read("empty-64m"))
        before = state(folder)
        code, text = self.refused(old_host)
        assert (code, "1.vhd" in text) == ("IMAGE_CORRUPT", True)
        assert state(folder) == before

    def test_too_few_names(self, old_host):
        arrived(old_host)
        code, text = self.refused(old_host, uuid_stack=new_uuids(2))
        assert (code, text.split()[0]) == ("BAD_ARGUMENT", "uuid_stack")

    def test_a_link_instead_of_a_disk_or_a_folder(self, old_host, tmp_path):
        folder = arrived(old_host)
        (folder / "2.vhd").unlink()
        (folder / "2.vhd").symlink_to("/etc/passwd")
        assert self.refused(old_host)[0] == "NOT_PERMITTED"
        (folder / "2.vhd").unlink()
        os.mkfifo(folder / "2.vhd")
        assert self.refused(old_host)[0] == "NOT_PERMITTED"
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        assert self.refused(old_host)[0] == "NOT_PERMITTED"

    def test_a_file_that_is_in_use_under_another_name(self, old_host, tmp_path):
        folder = arrived(old_host)
        os.link(folder / "1.vhd", tmp_path / "1.vhd")
        before = state(folder)
        assert self.refused(old_host)[0] == "NOT_PERMITTED"
        assert state(folder) == before

    def test_images_on_another_file_system(self, old_host):
        switches.require("mount")
        with killing.own_file_system(old_host.root / "images"):
            folder = arrived(old_host)
            before = state(folder)
            code, text = self.refused(old_host)
            assert state(folder) == before
        assert code == "NOT_SUPPORTED"
        assert "different file systems" in text and "ln -s" in text

    def test_images_as_a_link_into_the_sr(self, old_host):
        """As the guide says; this also keeps it in the SR's file system."""
        (old_host.root / "images").rmdir()
        (old_host.sr / "os-images").mkdir()
        (old_host.root / "images").symlink_to(old_host.sr / "os-images")
        arrived(old_host)
        said = old_host.call("migration", "move_vhds_into_sr", taking(old_host))
        reads_as(old_host.sr / f"{said['chain'][0]}.vhd", "leaf")
        assert list((old_host.sr / "os-images").iterdir()) == []

    def test_a_leaf_whose_host_crashed_is_mended(self, old_host):
        folder = arrived(old_host)
        leaf = golden.read("leaf")
        (folder / "0.vhd").write_bytes(leaf[:-512] + b"\x55" * 99328)
        said = old_host.call("migration", "move_vhds_into_sr", taking(old_host))
        names = ("leaf", "mid", "base")
        assert said["bytes"] == sum(len(golden.read(name)) for name in names)
        reads_as(old_host.sr / f"{said['chain'][0]}.vhd", "leaf")

    def test_the_longest_chain_that_a_host_opens(self, old_host):
        disks = vhd_files.chain(7, *[None] * 28, 3)
        arrived(old_host, disks)
        stack = new_uuids(30)
        said = old_host.call(
            "migration", "move_vhds_into_sr", taking(old_host, uuid_stack=stack)
        )
        assert said["chain"] == stack[::-1]
        fills = chain_reader.first_bytes(old_host.sr / f"{stack[-1]}.vhd")
        assert fills == [7] + [None] * 28 + [3]

    def test_killed_before_each_of_its_steps(self, old_host, monkeypatch):
        monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
        move = killing.plugin("migration").move_vhds_into_sr
        disks = vhd_files.chain(None, None, 9)
        for number in range(1, 500):
            request = serve.Request(taking(old_host))
            folder = arrived(old_host, disks)
            died = killing.killed_at(number, lambda: move(request))  # noqa: B023
            if not died:
                break
            whole = (old_host.sr / f"{request['uuid_stack'][-1]}.vhd").exists()
            again = serve.Request(request)
            if number % 2 and folder.exists():
                # A caller that forgot the names it gave.
                again["uuid_stack"] = new_uuids(16)
            said = move(again)
            if whole:
                assert said["chain"] == request["uuid_stack"][::-1][:3]
            leaf = old_host.sr / f"{said['chain'][0]}.vhd"
            assert chain_reader.first_bytes(leaf) == [None, None, 9]
            for folder in old_host.sr.glob(".xenapi-staging*"):
                folder.rmdir()  # empty: it was killed before it could take its lock
            assert old_host.left() == sorted(f"{one}.vhd" for one in said["chain"])
            assert os.listdir(old_host.root / "images") == []
            for one in said["chain"]:
                (old_host.sr / f"{one}.vhd").unlink()
        assert number > 30


class TestDiscarding:
    NAMES = (f"instance{LABEL}", f"instance{LABEL}_ephemeral_1",
             f"instance{LABEL}_ephemeral_12")
    OTHERS = (f"instance{LABEL}_rescue", "instance", f"xinstance{LABEL}")

    def fill(self, images):
        for name in self.NAMES + self.OTHERS:
            (images / name / ".partial").mkdir(parents=True)
            (images / name / "0.vhd").write_text("x")

    def test_all_of_a_server_here(self, host):
        self.fill(host.root / "images")
        request = {"instance_uuid": LABEL}
        said = host.call("migration", "discard", request)
        assert said["removed"] == sorted(self.NAMES)
        assert set(os.listdir(host.root / "images")) == set(self.OTHERS)
        assert host.call("migration", "discard", request) == {"removed": []}

    def test_one_disk_here(self, old_host):
        self.fill(old_host.root / "images")
        request = {"instance_uuid": f"{LABEL}_ephemeral_1"}
        said = old_host.call("migration", "discard", request)
        assert said["removed"] == [f"instance{LABEL}_ephemeral_1"]

    def test_all_of_a_server_on_the_other_host(self, old_host, other):
        self.fill(other.images)
        request = {"instance_uuid": LABEL, "host": neighbours.TARGET}
        for _ in range(2):
            assert old_host.call("migration", "discard", request) == {"removed": None}
            assert set(os.listdir(other.images)) == set(self.OTHERS)

    def test_a_link_is_not_followed(self, old_host, tmp_path):
        (tmp_path / "precious").write_text("x")
        folder = old_host.root / "images" / f"instance{LABEL}"
        folder.mkdir()
        (folder / "0.vhd").symlink_to(tmp_path / "precious")
        (folder / "more").symlink_to(tmp_path)
        old_host.call("migration", "discard", {"instance_uuid": LABEL})
        assert (tmp_path / "precious").exists()


BAD = {
    "instance_uuid": [
        "", "..", "/", "../../etc", LABEL.upper(), LABEL + "/..", LABEL + "\n",
        LABEL + "_ephemeral_0", LABEL + "_ephemeral_", LABEL + "_ephemeral_1;id",
        LABEL + "_ephemeral_*", LABEL + " ", "$(id)", None, 7, [LABEL],
    ],
    "host": ["", "-oProxyCommand=id", "a b", "a;id", "root@a", "a:b", "::1%lo", "$(id)",
             "a\n", None, 7],
    "vdi_uuids": [[], ["x"], ["../x"], [LABEL] * 2, None, LABEL,
                  [str(uuid.uuid4()) for _ in range(31)]],
    "sr_path": ["/etc", "/run/sr-mount/..", None],
    "seq_num": [-1, 30, "0", 1.5, True, None],
    "fresh": ["yes", 1, []],
    "ssh_port": [0, 65536, "22", True],
    "ssh_key": ["../x", "/etc/shadow", "", "-i", "no_such_key", 7],
    "ssh_host_keys": ["no", "", 1],
    "other": [1],
}


def test_each_bad_argument_is_refused_by_its_name(old_host, monkeypatch):
    monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
    transfer = killing.plugin("migration").transfer_chain
    (old_host.root / "root/.ssh").mkdir(parents=True)
    for name, values in BAD.items():
        for value in values:
            request = sending(old_host, [str(uuid.uuid4())])
            request[name] = value
            with pytest.raises(failures.Failure) as caught:
                transfer(serve.Request(request))
            assert ("BAD_ARGUMENT", name) == (
                caught.value.code, caught.value.params[0]
            ), value
            if isinstance(value, str) and len(value) > 4:
                assert value not in caught.value.params[1]
    assert old_host.left() == []
