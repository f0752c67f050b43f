# SPDX-License-Identifier: Apache-2.0
"""Chains that go from host to host by real rsync and ssh, and into the other's SR."""

import hashlib
import time
import uuid

import pytest

from tests.dom0 import chain_reader, golden, neighbours
from tests.dom0.scratch_host import PluginFailed

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


def arrived(host):
    """Put a chain into the host's own ``/images``, as another one sent it."""
    folder = host.root / "images" / f"instance{LABEL}"
    folder.mkdir()
    for number, name in enumerate(("leaf", "mid", "base")):
        (folder / f"{number}.vhd").write_bytes(golden.read(name))
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
