# SPDX-License-Identifier: Apache-2.0
"""Copies of chains inside an SR of which nobody sees a part."""

import os
import uuid

import pytest
from xenapi_dom0 import failures, serve

from tests.dom0 import chain_reader, golden, killing, switches, vhd_files
from tests.dom0.scratch_host import PluginFailed


def new_uuids(count):
    return [str(uuid.uuid4()) for _ in range(count)]


def put(host, disks):
    uuids = new_uuids(len(disks))
    for name, disk in zip(uuids, disks, strict=True):
        (host.sr / f"{name}.vhd").write_bytes(bytes(disk))
    return uuids


def copying(host, uuids, **changes):
    return {"sr_path": host.sr_path, "vdi_uuids": uuids, "uuid_stack": new_uuids(16),
            **changes}


def fails(host, request):
    with pytest.raises(PluginFailed) as caught:
        host.call("workarounds", "safe_copy_vdis", request)
    return caught.value.code, " ".join(caught.value.params)


def test_a_copy_reads_as_its_source_and_shares_nothing(host):
    uuids = put(host, [golden.read(name) for name in ("leaf", "mid", "base")])
    before = {name: (host.sr / f"{name}.vhd").read_bytes() for name in uuids}
    request = copying(host, uuids)
    said = host.call("workarounds", "safe_copy_vdis", request)
    assert said["chain"] == request["uuid_stack"][::-1][:3]
    leaf = host.sr / f"{said['chain'][0]}.vhd"
    chain_reader.assert_reads_as(leaf, golden.CONTENT["leaf"])
    files = chain_reader.chain_files(leaf)
    assert [path.stem for path in files] == said["chain"]
    assert [chain_reader.hidden(path) for path in files] == [False, True, True]
    for name in uuids:
        source = host.sr / f"{name}.vhd"
        assert source.read_bytes() == before[name]
        assert source.stat().st_nlink == 1
    assert host.left() == sorted(f"{name}.vhd" for name in (*uuids, *said["chain"]))
    # A caller that lost the answer asks again.
    assert host.call("workarounds", "safe_copy_vdis", request) == said


def test_holes_stay_holes_and_zeros_become_some(old_host):
    (name,) = put(old_host, [vhd_files.VhdFile(fill=0)])
    source = old_host.sr / f"{name}.vhd"
    with source.open("r+b") as disk:  # a block beyond 1 GiB, which nothing maps
        data = disk.read()
        disk.truncate(len(data) - 512)
        disk.seek(2**30)
        disk.write(data[-512:])
    said = old_host.call(
        "workarounds", "safe_copy_vdis", copying(old_host, [name])
    )
    copy = old_host.sr / f"{said['root']['uuid']}.vhd"
    assert copy.stat().st_size == 2**30 + 512
    assert copy.stat().st_blocks * 512 < 300000 < source.stat().st_blocks * 512


class TestRefused:
    def test_disks_that_are_no_chain(self, old_host):
        disks = [*vhd_files.chain(1, 2), vhd_files.VhdFile()]
        leaf, base, other = put(old_host, disks)
        for wrong in ([leaf, other], [leaf], [base, leaf]):
            assert fails(old_host, copying(old_host, wrong))[0] == "IMAGE_CORRUPT"
        assert len(old_host.left()) == 3

    def test_a_disk_that_is_not_there_or_a_link(self, old_host):
        assert fails(old_host, copying(old_host, new_uuids(1)))[0] == "NOT_FOUND"
        name = str(uuid.uuid4())
        (old_host.sr / f"{name}.vhd").symlink_to("/etc/shadow")
        code, _text = fails(old_host, copying(old_host, [name]))
        assert code == "COMMAND_FAILED"
        assert old_host.left() == [f"{name}.vhd"]

    def test_a_fifo_does_not_hold_it_up(self, old_host):
        name = str(uuid.uuid4())
        os.mkfifo(old_host.sr / f"{name}.vhd")
        assert fails(old_host, copying(old_host, [name]))[0] == "NOT_PERMITTED"

    def test_a_full_sr(self, old_host):
        switches.require("mount")
        with killing.own_file_system(old_host.sr, "8m"):
            uuids = put(old_host, vhd_files.chain(1, 2))
            code, text = fails(old_host, copying(old_host, uuids))
            assert code == "NO_SPACE"
            assert sorted(os.listdir(old_host.sr)) == sorted(
                f"{name}.vhd" for name in uuids
            )

    def test_each_bad_argument_by_its_name(self, old_host, monkeypatch):
        monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
        copy = killing.plugin("workarounds").safe_copy_vdis
        bad = {
            "sr_path": ["/", None, 7], "other": [1],
            "vdi_uuids": [[], None, ["../x"], new_uuids(31), ["x" * 36]],
            "uuid_stack": [[], None, [7], new_uuids(31)],
        }
        for name, values in bad.items():
            for value in values:
                request = copying(old_host, new_uuids(1), **{name: value})
                with pytest.raises(failures.Failure) as caught:
                    copy(serve.Request(request))
                assert [caught.value.code, caught.value.params[0]] == [
                    "BAD_ARGUMENT", name
                ], value


def test_killed_before_each_of_its_steps(old_host, monkeypatch):
    monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
    copy = killing.plugin("workarounds").safe_copy_vdis
    uuids = put(old_host, vhd_files.chain(None, 4))
    sources = sorted(f"{name}.vhd" for name in uuids)
    for number in range(1, 500):
        request = serve.Request(copying(old_host, uuids))
        if not killing.killed_at(number, lambda: copy(request)):  # noqa: B023
            break
        there = [name for name in old_host.left() if ".xenapi" not in name]
        assert len(there) in (2, 3, 4)
        said = copy(request)
        for folder in old_host.sr.glob(".xenapi-staging*"):
            folder.rmdir()  # empty: it was killed before it could take its lock
        leaf = old_host.sr / f"{said['chain'][0]}.vhd"
        assert chain_reader.first_bytes(leaf) == [None, 4]
        made = [f"{name}.vhd" for name in said["chain"]]
        assert old_host.left() == sorted(sources + made)
        for name in made:
            (old_host.sr / name).unlink()
    assert number > 30
