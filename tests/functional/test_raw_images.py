# SPDX-License-Identifier: Apache-2.0
"""Images that hold a disk's bytes, by every handler; libvhdi reads the disks."""

from __future__ import annotations

import gzip
import pathlib
import subprocess
import types
import uuid

import pytest
from nova import exception as nova_exception

from tests import breaking, builders, fixtures
from tests.functional.test_spawn import READER, SYSTEM_PYTHON
from tests.sim import drives
from xenapi_driver import exceptions
from xenapi_driver.images import repeating, source
from xenapi_driver.sim import Behaviour
from xenapi_driver.xapi import plugged, vdi

MIB = 2**20
# No whole block of a VHD, and no multiple of a megabyte.
SIZE = 9 * MIB + 512
LOCAL = "vdi_local_dev"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The disk that all images here have: data, a hole of megabytes, and data."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    with open(path, "wb") as disk:
        disk.write(builders.CONTENT)
        disk.seek(SIZE - 70_000)
        disk.write(builders.CONTENT[:70_000])
    return path


def image(raw: pathlib.Path, kind: str, *tar: str) -> tuple[bytes, dict[str, str]]:
    """Return an image of the disk, and what Glance says of it."""
    if kind == "raw":
        return raw.read_bytes(), {"disk_format": "raw", "container_format": "bare"}
    if kind == "tgz":
        words = ["tar", "-C", str(raw.parent), "-czf", "-", *tar, raw.name]
        data = subprocess.run(words, check=True, capture_output=True).stdout
        return data, {"disk_format": "raw", "container_format": "tgz"}
    made = raw.with_suffix(".qcow2")
    words = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, made]
    subprocess.run(words, check=True)
    return made.read_bytes(), {"disk_format": "qcow2", "container_format": "bare"}


@pytest.fixture
def build_rig(tmp_path, request, monkeypatch):
    """What makes a rig with a handler on an SR of a type; plugs are real."""
    monkeypatch.setattr(repeating, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(plugged, "_UNPLUG_PAUSE_SECONDS", 0.01)
    made: list[fixtures.Rig] = []

    def make(handler: str, sr: str = "ext", cache: str = "none", retries: int = 0):
        if handler == LOCAL:
            loops = drives.with_loops(tmp_path)
            next(loops)
            request.addfinalizer(lambda: [*loops])
        behaviour = Behaviour(block_device_dir=tmp_path / "dev")
        rig = fixtures.Rig(tmp_path, behaviour=behaviour)
        made.append(rig)
        rig.set_option("image_handler", handler)
        rig.set_option("block_device_dir", str(tmp_path / "dev"))
        rig.set_option("cache_images", cache)
        rig.set_option("num_retries", retries, "glance")
        (tmp_path / "work").mkdir()
        rig.set_option("tempdir", str(tmp_path / "work"), "DEFAULT")
        if sr != "ext":
            rig.host.create_sr(sr, openstack="disks")
            rig.set_option("sr_matching_filter", "other-config:openstack=disks")
        rig.start()
        request.addfinalizer(lambda: nothing_is_left_here(tmp_path))
        request.addfinalizer(rig.close)
        return rig

    return make


def nothing_is_left_here(folder: pathlib.Path) -> None:
    """See that nova-compute's machine is as it was."""
    assert list((folder / "work").iterdir()) == []
    assert not (folder / "dev").exists() or list((folder / "dev").iterdir()) == []


def root_disk(rig: fixtures.Rig, instance: object) -> bytes:
    """Return what libvhdi reads of the root disk, less zeros at its end."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import pyvhdi"]).returncode:
        pytest.skip("missing: python3-libvhdi")
    (vm,) = rig.host.records("VM", name_label=instance.name)
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm["VBDs"])
    disk = rig.host.record("VDI", vbd["VDI"])
    out = rig.folder / "read-back.raw"
    leaf = rig.sim.world.stores[disk["SR"]].path_of(disk["location"])
    subprocess.run([SYSTEM_PYTHON, str(READER), str(leaf), str(out)], check=True)
    return out.read_bytes()


@pytest.mark.parametrize("kind", ["raw", "tgz", "qcow2"])
@pytest.mark.parametrize("handler", ["direct_vhd", LOCAL])
def test_the_root_disk_is_what_the_image_holds(build_rig, raw, handler, kind):
    rig = build_rig(handler)
    data, formats = image(raw, kind)
    instance = builders.instance(rig.add_image(data, **formats), root_gb=0)
    rig.spawn(instance)
    disk = root_disk(rig, instance)
    assert disk[:SIZE] == raw.read_bytes()
    assert disk[SIZE:].strip(b"\0") == b""
    (known,) = rig.host.records("VDI", name_label=instance.name)
    # The SR rounds a disk up to whole blocks of VHD.
    assert SIZE <= int(known["virtual_size"]) < SIZE + 2 * MIB
    assert rig.progress == sorted(set(rig.progress)) and rig.progress[-1] == 100


def test_vdi_local_dev_serves_an_sr_of_volumes(build_rig, raw):
    rig = build_rig(LOCAL, "lvm", cache="all")
    data, formats = image(raw, "tgz")
    image_id = rig.add_image(data, **formats)
    for _ in range(2):
        instance = builders.instance(image_id, root_gb=0)
        rig.spawn(instance)
        disk = root_disk(rig, instance)
        assert disk[:SIZE] == raw.read_bytes()
        assert disk[SIZE:].strip(b"\0") == b""
    assert rig.images.served == 1


def refusal(rig, instance, kind=nova_exception.NovaException) -> str:
    """Return why a build is refused, which leaves the host as it was."""
    before = breaking.on_host(rig)
    with pytest.raises(kind) as refused:
        rig.spawn(instance)
    assert breaking.on_host(rig) == before
    return str(refused.value)


@pytest.mark.parametrize("handler", ["direct_vhd", LOCAL])
def test_a_damaged_image_fails_the_build_and_leaves_nothing(
    build_rig, raw, handler
):
    rig = build_rig(handler)
    unusable = nova_exception.ImageUnacceptable
    for kind, spoil, reason in (
        ("tgz", lambda data: data[: len(data) // 2], "ends in the middle"),
        ("tgz", gzip.decompress, "not gzipped"),
        ("qcow2", lambda data: data[: len(data) // 2], "cannot be used as qcow2"),
        ("raw", lambda data: b"QFI\xfb" + data, "is said to be raw, but is qcow2"),
    ):
        data, formats = image(raw, kind)
        spoilt = builders.instance(rig.add_image(spoil(data), **formats))
        assert reason in refusal(rig, spoilt, unusable)
    data, formats = image(raw, "raw")
    for wrong, came in ((SIZE + 1, SIZE), (SIZE - 512, "more")):
        other = rig.add_image(data, **formats, size=wrong)
        assert f"and {came} came" in refusal(rig, builders.instance(other))


def test_an_image_of_nothing_is_no_server(build_rig, tmp_path):
    rig = build_rig("direct_vhd")
    nothing = tmp_path / "disk.raw"
    nothing.touch()
    for kind in ("raw", "tgz", "qcow2"):
        data, formats = image(nothing, kind)
        server = builders.instance(rig.add_image(data, **formats))
        assert "is empty" in refusal(rig, server, nova_exception.ImageUnacceptable)


def test_a_broken_transfer_begins_anew(build_rig, raw, monkeypatch):
    rig = build_rig("direct_vhd", retries=3)
    data, formats = image(raw, "raw")
    instance = builders.instance(rig.add_image(data, **formats))
    rig.images.cut_after = SIZE // 2
    assert "could not be fetched" in refusal(rig, instance)
    asked = rig.images.served
    assert asked == 4

    def heal(seconds):
        rig.images.cut_after = None

    monkeypatch.setattr(repeating, "time", types.SimpleNamespace(sleep=heal))
    rig.spawn(instance)
    assert rig.images.served == asked + 2
    assert root_disk(rig, instance)[:SIZE] == raw.read_bytes()


@pytest.mark.parametrize("kind", ["raw", "tgz", "qcow2"])
def test_a_disk_larger_than_the_flavors_is_refused_before_a_byte_is_written(
    build_rig, tmp_path, kind
):
    rig = build_rig("direct_vhd")
    large = tmp_path / "large.raw"
    large.touch()
    with open(large, "wb") as disk:
        disk.truncate(builders.GIB + MIB)
    if kind == "raw":
        data, formats = b"", {"disk_format": "raw", "size": builders.GIB + MIB}
    else:
        data, formats = image(large, kind, "--sparse", "--format=gnu")
    instance = builders.instance(rig.add_image(data, **formats))
    with rig.recording() as made:
        said = refusal(rig, instance, nova_exception.FlavorDiskTooSmall)
    assert f"has a disk of {builders.GIB + MIB} bytes" in said
    assert not any("VDI.create" in str(one) for one in made)


@pytest.mark.parametrize("told", [{"min_disk": 2}, {"virtual_size": builders.GIB + 1}])
def test_what_the_image_service_says_of_its_size_is_refused_without_reading_it(
    build_rig, raw, told
):
    rig = build_rig("direct_vhd")
    data, formats = image(raw, "qcow2")
    instance = builders.instance(rig.add_image(data, **formats, **told))
    said = refusal(rig, instance, nova_exception.FlavorDiskTooSmall)
    assert "flavor" in said
    assert rig.images.served == 0


def test_vdi_local_dev_refuses_a_vhd_and_names_who_reads_it(build_rig, tarball):
    rig = build_rig(LOCAL)
    instance = builders.instance(rig.add_image(tarball))
    said = refusal(rig, instance, nova_exception.ImageUnacceptable)
    assert "vdi_remote_stream" in said
    assert rig.images.served == 0


def test_vdi_local_dev_without_a_machine_to_plug_disks_into_does_not_start(bare_rig):
    bare_rig.set_option("image_handler", LOCAL)
    bare_rig.set_option("check_host", False)
    bare_rig.set_option("compute_vm_uuid", "6f5f2b1c-7c67-4d5e-8f5f-2f5c1a0e2d11")
    with pytest.raises(nova_exception.InvalidConfiguration) as refused:
        bare_rig.start()
    assert "set image_handler to vdi_remote_stream" in str(refused.value)


def test_a_device_that_does_not_appear_fails_the_build(build_rig, raw):
    rig = build_rig(LOCAL)
    data, formats = image(raw, "raw")
    instance = builders.instance(rig.add_image(data, **formats))
    object.__setattr__(rig.driver._spawn._handler._place, "seconds", 0.1)
    object.__setattr__(
        rig.driver._spawn._handler._place, "device_dir", rig.folder / "nowhere"
    )
    assert "did not appear as" in refusal(rig, instance)
    assert drives_of_compute_vm(rig) == []


def drives_of_compute_vm(rig) -> list:
    ref = rig.host.xenapi.VM.get_by_uuid(rig.sim.compute_vm_uuid)
    return rig.host.record("VM", ref)["VBDs"]


def vdi_of(rig, ref: str) -> vdi.VdiRecord:
    """Return a disk that somebody else made, once the driver has heard of it."""
    session = rig.driver.home.session
    assert session.events.until(lambda now: now[vdi.VdiRecord].get(ref), 5)
    return vdi.get(session, ref)


def test_vdi_local_dev_stores_a_disk_as_tgz(build_rig, raw, tmp_path):
    rig = build_rig(LOCAL)
    data, formats = image(raw, "raw")
    instance = builders.instance(rig.add_image(data, **formats), root_gb=0)
    rig.spawn(instance)
    before = root_disk(rig, instance)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm["VBDs"])
    snapshot = rig.host.xenapi.VDI.snapshot(vbd["VDI"], {})
    archive, told = tmp_path / "image.tgz", []

    def write(about, pieces):
        told.append(about)
        archive.write_bytes(b"".join(pieces))

    target = source.ImageTarget("an-id", {"os_type": "linux"}, {}, (), write)
    handler = rig.driver._spawn._handler
    leaf = vdi_of(rig, snapshot)
    stored = handler.store(target, leaf, [])
    assert told == [
        {
            "disk_format": "raw",
            "container_format": "tgz",
            "properties": {"os_type": "linux"},
        }
    ]
    assert stored.size == archive.stat().st_size
    shown = subprocess.run(["sha512sum", archive], check=True, capture_output=True)
    assert shown.stdout.split()[0].decode() == stored.sha512
    subprocess.run(["tar", "-xzf", "image.tgz"], cwd=tmp_path, check=True)
    disk = (tmp_path / "disk.raw").read_bytes()
    assert len(disk) == leaf.virtual_size
    assert disk.rstrip(b"\0") == before.rstrip(b"\0")
    assert drives_of_compute_vm(rig) == []


def test_an_upload_that_fails_leaves_nothing_plugged(build_rig, raw):
    rig = build_rig(LOCAL)
    data, formats = image(raw, "raw")
    instance = builders.instance(rig.add_image(data, **formats))
    rig.spawn(instance, power_on=False)
    (vm,) = rig.host.records("VM", name_label=instance.name)
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm["VBDs"])

    def write(about, pieces):
        next(iter(pieces))
        raise OSError("cut")

    target = source.ImageTarget("an-id", {}, {}, (), write)
    leaf = vdi_of(rig, vbd["VDI"])
    with pytest.raises(exceptions.TransferFailed, match="cut"):
        rig.driver._spawn._handler.store(target, leaf, [])
    assert drives_of_compute_vm(rig) == []


def test_a_snapshot_by_vdi_local_dev_is_raw_and_boots(build_rig, raw):
    rig = build_rig(LOCAL)
    data, formats = image(raw, "raw")
    instance = builders.instance(rig.add_image(data, **formats), root_gb=0)
    instance.auto_disk_config = False
    rig.spawn(instance)
    before = breaking.on_host(rig)
    made = rig.images.image(identity=str(uuid.uuid4()))
    rig.driver.snapshot(rig.context, instance, made.identity, lambda **told: None)
    assert breaking.on_host(rig) == before
    assert (made.status, made.fields["disk_format"]) == ("active", "raw")
    assert made.fields["container_format"] == "tgz"
    copy = builders.instance(made.identity, root_gb=0)
    formats = {"disk_format": "raw", "container_format": "tgz"}
    rig.records[made.identity] = builders.image_record(
        made.identity, made.data, **formats
    )
    rig.spawn(copy)
    assert root_disk(rig, copy)[:SIZE] == raw.read_bytes()


def test_what_a_host_boots_is_told_to_the_scheduler(build_rig, monkeypatch):
    rig = build_rig(LOCAL)
    told = rig.driver.capabilities
    assert not told["supports_image_type_vhd"]
    assert told["supports_image_type_raw"] and told["supports_image_type_qcow2"]
    rig.set_option("image_handler", "direct_vhd")
    rig.driver.cleanup_host("compute1")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(rig.folder))
        rig.start()
    told = rig.driver.capabilities
    assert told["supports_image_type_vhd"] and told["supports_image_type_raw"]
    assert not told["supports_image_type_qcow2"]


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("image_handler", "set image_handler = vdi_remote_stream"),
        ("image_upload_handler", "remove image_upload_handler"),
    ],
)
def test_a_handler_that_cannot_serve_the_sr_is_refused_with_what_to_do(
    bare_rig, option, remedy
):
    bare_rig.host.create_sr("lvm", openstack="disks")
    bare_rig.set_option("sr_matching_filter", "other-config:openstack=disks")
    bare_rig.set_option("image_handler", LOCAL)
    bare_rig.set_option(option, "direct_vhd")
    with pytest.raises(nova_exception.InvalidConfiguration) as refused:
        bare_rig.start()
    assert remedy in str(refused.value)
