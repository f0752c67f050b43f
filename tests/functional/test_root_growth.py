# SPDX-License-Identifier: Apache-2.0
"""auto_disk_config: real partitions and file systems, grown on a plugged disk."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Sequence

import pytest
from nova import exception as nova_exception

from tests import breaking, builders, fixtures
from tests.functional.test_further_disks import content_of, disk_at
from tests.sim import drives
from xenapi_driver.sim import Behaviour
from xenapi_driver.steps import programs

GIB = builders.GIB


def run(*words: object, text: str | None = None) -> str:
    words = [str(word) for word in words]
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, input=text
    )
    return done.stdout


def image(
    folder: pathlib.Path,
    kind: str = "ext4",
    table: str = "dos",
    script: Sequence[str] = (),
) -> bytes:
    """Return a tarball with a disk of 64 MiB, whose file system has a file.

    :param script: more commands of debugfs
    """
    part, raw, vhd = (folder / f"image.{one}" for one in ("part", "raw", "vhd"))
    (folder / "greeting").write_text("hello")
    run("truncate", "-s", "60M", part)
    if kind == "vfat":
        run("mkfs.vfat", part)
    else:
        run("mke2fs", "-q", "-F", "-t", kind, "-L", "root", part)
        commands = [f"write {folder}/greeting greeting", *script]
        run("debugfs", "-w", "-f", "-", part, text="\n".join(commands))
    run("truncate", "-s", "64M", raw)
    script = {"dos": ", , L, *\n", "gpt": "start=2048\n", "two": "2048,8M\n,\n"}[table]
    label = "gpt" if table == "gpt" else "dos"
    run("sfdisk", "-q", "--label", label, raw, text=script)
    run("dd", f"if={part}", f"of={raw}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    options = "subformat=dynamic,force_size=on"
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, vhd)
    return builders.vhd_tarball(vhd.read_bytes())


@pytest.fixture
def plug_rig(tmp_path):
    """A rig that is up, on which plugged disks are real block devices."""
    loops = drives.with_loops(tmp_path)
    next(loops)
    rig = fixtures.Rig(
        tmp_path, behaviour=Behaviour(block_device_dir=tmp_path / "dev")
    )
    rig.set_option("block_device_dir", str(tmp_path / "dev"))
    rig.set_option("cache_images", "none")
    rig.start()
    yield rig
    rig.close()
    assert [*loops] == []


def spawned(rig, data, **changes):
    values = {"auto_disk_config": True, **changes}
    instance = builders.instance(rig.add_image(data), **values)
    rig.spawn(instance)
    return instance


def partitions_of(raw):
    return json.loads(run("sfdisk", "-J", raw))["partitiontable"]["partitions"]


@pytest.mark.parametrize(
    ("kind", "table"), [("ext4", "dos"), ("ext3", "dos"), ("ext4", "gpt")]
)
def test_the_file_system_fills_the_flavors_disk(plug_rig, tmp_path, kind, table):
    instance = spawned(plug_rig, image(tmp_path, kind, table), root_gb=1)
    raw = content_of(plug_rig, disk_at(plug_rig, instance, "0"))
    (partition,) = partitions_of(raw)
    assert partition["start"] == 2048
    assert partition.get("bootable", False) == (table == "dos")
    # A GPT has its second copy in the last 33 sectors.
    end = GIB // 512 - (33 if table == "gpt" else 0)
    assert 0 <= end - (partition["start"] + partition["size"]) < 2048
    alone = f"{raw}?offset={builders.MIB}"
    run("fsck.ext4", "-f", "-n", alone)
    said = run("dumpe2fs", "-h", alone)
    blocks, size = (
        int(line.split()[-1])
        for line in said.splitlines()
        if line.startswith(("Block count", "Block size"))
    )
    assert partition["size"] * 512 - blocks * size < 8 * builders.MIB
    assert run("debugfs", "-R", "cat greeting", alone) == "hello"
    assert "has_journal" in said
    assert breaking.on_host(plug_rig)["VBD"] == 1


@pytest.mark.parametrize(
    ("kind", "table", "reason"),
    [
        ("ext2", "dos", "holds ext2"),
        ("vfat", "dos", "holds vfat"),
        ("ext4", "two", "has 2 partitions"),
        ("ext4", "none", "no partition table"),
    ],
)
def test_another_disk_stays_as_it_is(plug_rig, tmp_path, caplog, kind, table, reason):
    if table == "none":
        source = tmp_path / "disk.raw"
        data = builders.vhd_tarball(builders.vhd_bytes(tmp_path))
    else:
        source = tmp_path / "image.raw"
        data = image(tmp_path, kind, table)
    instance = spawned(plug_rig, data)
    assert reason in caplog.text
    raw = content_of(plug_rig, disk_at(plug_rig, instance, "0"))
    assert raw.stat().st_size == GIB
    run("cmp", "-n", source.stat().st_size, raw, source)


def test_a_file_system_with_errors_stays_as_it_is(plug_rig, tmp_path, caplog):
    folder = tmp_path / "image"
    folder.mkdir()
    image(folder)
    raw, vhd = folder / "image.raw", folder / "image.vhd"
    with open(raw, "r+b") as disk:  # the descriptors of its groups
        disk.seek(builders.MIB + 2048)
        disk.write(b"\xff" * 1024)
    options = "subformat=dynamic,force_size=on"
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, vhd)
    instance = spawned(plug_rig, builders.vhd_tarball(vhd.read_bytes()))
    assert "its file system has errors" in caplog.text
    (partition,) = partitions_of(content_of(plug_rig, disk_at(plug_rig, instance, "0")))
    assert partition["size"] == 64 * 2048 - 2048


def test_what_it_costs(plug_rig, tmp_path):
    data, costs = image(tmp_path), []
    for wanted in (False, True):
        with plug_rig.recording() as made:
            spawned(plug_rig, data, auto_disk_config=wanted)
        costs.append(len(made))
    assert costs[1] - costs[0] <= 6, made


@pytest.mark.parametrize("method", ["VBD.create", "VBD.plug"])
def test_a_build_that_breaks_leaves_nothing(plug_rig, tmp_path, method):
    before = breaking.on_host(plug_rig)
    plug_rig.sim.faults.add(method, breaking.REFUSAL)
    with pytest.raises(nova_exception.NovaException, match="test put here"):
        spawned(plug_rig, image(tmp_path))
    plug_rig.sim.faults.clear()
    assert breaking.on_host(plug_rig) == before


def test_a_program_that_breaks_off_fails_the_build(plug_rig, tmp_path, monkeypatch):
    broken = tmp_path / "resize2fs"
    broken.write_text("#!/bin/sh\necho torn apart >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(programs, "_PATH", f"{tmp_path}:{programs._PATH}")
    before = breaking.on_host(plug_rig)
    with pytest.raises(nova_exception.NovaException, match="torn apart"):
        spawned(plug_rig, image(tmp_path))
    assert breaking.on_host(plug_rig) == before


def test_a_flavor_without_a_size_leaves_the_disk_alone(plug_rig, tmp_path):
    instance = spawned(plug_rig, image(tmp_path), root_gb=0)
    (partition,) = partitions_of(content_of(plug_rig, disk_at(plug_rig, instance, "0")))
    assert partition["size"] == 64 * 2048 - 2048


def test_without_a_vm_of_the_pool_it_is_refused(bare_rig, tarball):
    bare_rig.set_option("check_host", False)
    bare_rig.set_option("independent_compute", True)
    bare_rig.start()
    before = bare_rig.sim.inventory()
    with pytest.raises(nova_exception.BuildAbortException, match="diskConfig MANUAL"):
        spawned(bare_rig, tarball)
    assert bare_rig.sim.inventory() == before
