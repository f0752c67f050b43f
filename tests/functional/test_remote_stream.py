# SPDX-License-Identifier: Apache-2.0
"""Images through XAPI's import and export handlers, on SRs of files and of volumes."""

from __future__ import annotations

import gzip
import hashlib
import io
import pathlib
import subprocess
import tarfile

import pytest
from nova import exception as nova_exception

from tests import builders
from tests.breaking import on_host
from tests.dom0.glance_server import GlanceServer
from tests.functional import test_requests
from tests.functional.snapshots import Snapshots, unpacked
from tests.sim import vhd_judges
from xenapi_driver import exceptions
from xenapi_driver.images import direct_vhd, remote_stream, repeating, rules, source
from xenapi_driver.xapi import errors, vdi

DATA = pathlib.Path(__file__).parents[1] / "data/vhd"
READER = pathlib.Path(__file__).parents[2] / "demo/vhd_reader.py"
SYSTEM_PYTHON = "/usr/bin/python3"
LINKS = ("leaf", "mid", "base")
RULES = rules.TransferRules(attempts=2, compression_level=1)


def recorded(name: str) -> bytes:
    """Return a disk that a real dom0's tool made."""
    return gzip.decompress((DATA / f"{name}.vhd.gz").read_bytes())


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """Return an image of these members; without data one is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type = tarfile.DIRTYPE
            member.size = len(data or b"")
            tar.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


@pytest.fixture(params=["ext", "lvm"])
def sr(request, bare_rig):
    """The UUID of an SR of a type, which the handler is to serve."""
    uuid = bare_rig.host.create_sr(request.param, openstack="here")
    bare_rig.set_option("sr_matching_filter", "other-config:openstack=here")
    bare_rig.set_option("image_handler", "vdi_remote_stream")
    return uuid


@pytest.fixture
def streaming(bare_rig, sr):
    """A rig that is up, on such an SR."""
    bare_rig.start()
    return bare_rig


@pytest.fixture
def plain(bare_rig):
    """A rig that is up, on the SR that both handlers serve."""
    bare_rig.set_option("image_handler", "vdi_remote_stream")
    bare_rig.start()
    return bare_rig


@pytest.fixture(scope="session")
def chain_digest(tmp_path_factory):
    """SHA-256 of the content of the recorded chain, by libvhdi."""
    folder = tmp_path_factory.mktemp("chain")
    paths = []
    for name in LINKS:
        paths.append(folder / f"{name}.vhd")
        paths[-1].write_bytes(recorded(name))
    return vhd_judges.libvhdi_digest(*paths)


def content(rig, uuid: str, size: int | None = None) -> bytes:
    """Return what is on a disk, as libvhdi reads it in the SR's folder."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import pyvhdi"]).returncode:
        pytest.skip("missing: python3-libvhdi")
    (leaf,) = rig.sim.sr_path.parent.glob(f"*/{uuid}.vhd")
    raw = rig.folder / "read-back.raw"
    subprocess.run([SYSTEM_PYTHON, str(READER), str(leaf), str(raw)], check=True)
    with open(raw, "rb") as disk:
        return disk.read(-1 if size is None else size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept(rig) -> tuple[set, set, set]:
    """Return the host's disks, tasks, and the files of all SRs."""
    files = {str(path) for path in rig.sim.sr_path.parent.rglob("*") if path.is_file()}
    api = rig.host.xenapi
    return set(api.VDI.get_all()), set(api.task.get_all()), files


def fetched(rig, image_id: str, max_bytes: int | None = None) -> vdi.VdiRecord:
    """Bring an image into the SR."""
    handler = remote_stream.RemoteStream(rig.driver.home, RULES)
    return handler.fetch_vhd(source.open_image(rig.context, image_id), max_bytes)


def test_a_server_boots_from_a_disk_that_is_the_images(streaming, sr, tarball):
    instance = builders.instance(streaming.add_image(tarball))
    with streaming.recording() as made:
        streaming.spawn(instance)
    assert len(made) <= test_requests.SPAWN_UNCACHED_ONE_VIF, made
    (vm,) = streaming.host.records("VM", name_label=instance.name)
    assert vm["power_state"] == "Running"
    (vbd,) = (streaming.host.record("VBD", ref) for ref in vm["VBDs"])
    disk = streaming.host.record("VDI", vbd["VDI"])
    assert streaming.host.record("SR", disk["SR"])["uuid"] == sr
    assert int(disk["virtual_size"]) == builders.GIB
    wanted = builders.CONTENT.ljust(16 * builders.MIB, b"\0")
    assert content(streaming, disk["uuid"], len(wanted)) == wanted
    assert streaming.images.served == 1


def test_a_raw_image_goes_the_same_way(streaming, sr):
    instance = builders.instance(
        streaming.add_image(
            builders.CONTENT, disk_format="raw", container_format="bare"
        )
    )
    streaming.spawn(instance)
    (vm,) = streaming.host.records("VM", name_label=instance.name)
    (vbd,) = (streaming.host.record("VBD", ref) for ref in vm["VBDs"])
    uuid = streaming.host.record("VDI", vbd["VDI"])["uuid"]
    assert content(streaming, uuid, len(builders.CONTENT)) == builders.CONTENT


CHAINS = {
    "by number": ["0.vhd", "1.vhd", "2.vhd"],
    "as tar writes a folder": ["./", "./0.vhd", "./1.vhd", "./2.vhd"],
    "old names": ["snap.vhd", "image.vhd", "base.vhd"],
    "from the base": ["2.vhd", "swap.vhd", "1.vhd", "0.vhd"],
    "as a folder's hash has them": ["1.vhd", "manifest.txt", "2.vhd", "0.vhd"],
}
PLACES = {"0": 0, "1": 1, "2": 2, "snap": 0, "image": 1, "base": 2}


def test_a_chain_becomes_one_disk(plain, chain_digest):
    for how, names in CHAINS.items():
        members = []
        for name in names:
            place = PLACES.get(name.removeprefix("./").removesuffix(".vhd"))
            data = b"not a disk" if place is None else recorded(LINKS[place])
            members.append((name, None if name == "./" else data))
        disk = fetched(plain, plain.add_image(archive(*members)))
        assert sha256(content(plain, disk.uuid)) == chain_digest, how
        assert disk.virtual_size == 64 * builders.MIB, how
        assert "vhd-parent" not in disk.sm_config, how


def test_one_disk_may_have_any_name(plain):
    image_id = plain.add_image(archive(("disk one.vhd", recorded("base"))))
    (plain.folder / "base.vhd").write_bytes(recorded("base"))
    wanted = vhd_judges.libvhdi_digest(plain.folder / "base.vhd")
    disk = fetched(plain, image_id)
    assert sha256(content(plain, disk.uuid)) == wanted


def test_a_disk_that_grew_after_its_parent_was_made(plain):
    """The parent comes first, and the disk that it needs is larger."""
    larger = bytearray(recorded("leaf"))
    image_id = plain.add_image(
        archive(("2.vhd", recorded("base")), ("1.vhd", recorded("mid")),
                ("0.vhd", grown(larger, 66 * builders.MIB)))
    )  # fmt: skip
    assert fetched(plain, image_id).virtual_size == 66 * builders.MIB


def grown(disk: bytearray, size: int) -> bytes:
    """Let a VHD say that it is larger; its table has an unused entry to spare."""
    entries = size // (2 * builders.MIB)
    table = int.from_bytes(disk[512 + 16 : 512 + 24], "big")
    disk[table + entries * 4 - 4 : table + entries * 4] = b"\xff" * 4
    for at in (0, len(disk) - 512):
        disk[at + 48 : at + 56] = size.to_bytes(8, "big")
        disk[at + 64 : at + 68] = bytes(4)
        total = ~sum(disk[at : at + 512]) & 0xFFFFFFFF
        disk[at + 64 : at + 68] = total.to_bytes(4, "big")
    disk[512 + 28 : 512 + 32] = entries.to_bytes(4, "big")
    disk[512 + 36 : 512 + 40] = bytes(4)
    total = ~sum(disk[512:1536]) & 0xFFFFFFFF
    disk[512 + 36 : 512 + 40] = total.to_bytes(4, "big")
    return bytes(disk)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


BAD = {
    "no archive": (lambda: b"what is this" * 99, "no tar archive"),
    "a bare VHD": (lambda: recorded("base"), "outside of an archive; pack it"),
    "a VHD of terabytes of nothing": (lambda: swollen(4 << 40), f"it has {4 << 40} b"),
    "a cut archive": (lambda: gzip.compress(cut(plain_tar())), "ends"),
    "a cut gzip stream": (lambda: cut(archive(("0.vhd", recorded("base")))), "early"),
    "no disk": (lambda: archive(("a.txt", b"text")), "no VHD file"),
    "no VHD": (lambda: archive(("0.vhd", bytes(9999))), "0.vhd: there is no VHD"),
    "a cut VHD": (lambda: archive(("0.vhd", cut(recorded("base")))), "too early"),
    "a gap": (
        lambda: archive(("0.vhd", recorded("leaf")), ("2.vhd", recorded("base"))),
        "1.vhd is missing",
    ),
    "no base": (lambda: archive(("0.vhd", recorded("leaf"))), "not in it"),
    "two bases": (
        lambda: archive(("0.vhd", recorded("base")), ("1.vhd", recorded("base"))),
        "needs no other",
    ),
    "twice": (
        lambda: archive(("0.vhd", recorded("leaf")), ("./0.vhd", recorded("base"))),
        "twice",
    ),
    "a strange name": (
        lambda: archive(("0.vhd", recorded("leaf")), ("x.vhd", recorded("base"))),
        "does not tell its place",
    ),
    "a path": (lambda: archive(("../0.vhd", recorded("base"))), "leads elsewhere"),
    "a second disk that is damaged": (
        lambda: archive(("0.vhd", recorded("leaf")), ("1.vhd", cut(recorded("mid")))),
        "1.vhd: it ends too early",
    ),
}


def swollen(size: int) -> bytes:
    """Return an archive whose disk claims to have many more bytes than it needs."""
    member = tarfile.TarInfo("0.vhd")
    member.size = size
    start = member.tobuf(tarfile.GNU_FORMAT) + recorded("base")[:-512]
    return gzip.compress(start + bytes(builders.MIB), 1)


def plain_tar() -> bytes:
    return gzip.decompress(archive(("0.vhd", recorded("base"))))


def test_a_damaged_image_leaves_nothing(plain):
    for name, (make, said) in BAD.items():
        image_id = plain.add_image(make())
        before = kept(plain)
        with pytest.raises(exceptions.ImageUnusable, match=said) as caught:
            fetched(plain, image_id)
        assert image_id in str(caught.value), name
        assert kept(plain) == before, name


def test_a_build_of_a_damaged_image_fails_in_words(streaming):
    instance = builders.instance(
        streaming.add_image(archive(("0.vhd", cut(recorded("base")))))
    )
    before = kept(streaming)
    with pytest.raises(nova_exception.ImageUnacceptable, match="too early"):
        streaming.spawn(instance)
    assert kept(streaming) == before
    assert not streaming.host.records("VM", name_label=instance.name)


def test_a_disk_larger_than_the_flavors_is_refused_before_it_is_written(plain):
    image_id = plain.add_image(archive(("0.vhd", recorded("base"))))
    with (
        plain.recording() as made,
        pytest.raises(exceptions.ImageTooLarge, match="67108864"),
    ):
        fetched(plain, image_id, 63 * builders.MIB)
    assert not list(made)
    assert fetched(plain, image_id, 64 * builders.MIB).virtual_size == 64 * 2**20


def test_a_transfer_that_breaks_begins_anew(plain, monkeypatch, tarball):
    image_id = plain.add_image(tarball)
    plain.images.cut_after = len(tarball) // 2
    before = kept(plain)

    def mend(seconds):
        plain.images.cut_after = None

    monkeypatch.setattr(repeating.time, "sleep", mend)
    disk = fetched(plain, image_id)
    assert content(plain, disk.uuid, len(builders.CONTENT)) == builders.CONTENT
    assert plain.images.served == 2
    assert kept(plain)[0] - before[0] == {disk.ref}


def test_a_transfer_that_always_breaks_leaves_nothing(plain, monkeypatch, tarball):
    image_id = plain.add_image(tarball)
    plain.images.cut_after = len(tarball) // 2
    monkeypatch.setattr(repeating.time, "sleep", lambda seconds: None)
    before = kept(plain)
    with pytest.raises(exceptions.TransferFailed, match=image_id):
        fetched(plain, image_id)
    assert plain.images.served == RULES.attempts
    assert kept(plain) == before


def test_a_full_sr_leaves_nothing(plain, tarball):
    image_id = plain.add_image(tarball)
    before = kept(plain)
    plain.sim.faults.add("PUT /import_raw_vdi", ["VDI_IO_ERROR", "Device I/O errors"])
    with pytest.raises(errors.XapiFailure):
        fetched(plain, image_id)
    assert kept(plain) == before


# out


def stored(rig, disk: vdi.VdiRecord) -> bytes:
    """Return the image that the handler makes of a disk."""
    given = []

    def write(about, pieces):
        assert (about["disk_format"], about["container_format"]) == ("vhd", "ovf")
        given.extend(pieces)

    target = source.ImageTarget("an-image", {}, {}, (), write)
    handler = remote_stream.RemoteStream(rig.driver.home, RULES)
    shares = []
    said = handler.store(target, disk, [disk.uuid], shares.append)
    data = b"".join(given)
    assert said == source.Stored(len(data), hashlib.sha512(data).hexdigest())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return data


def test_a_clone_is_stored_as_one_disk(streaming, sr, tarball):
    instance = builders.instance(streaming.add_image(tarball), root_gb=0)
    streaming.spawn(instance)
    (vm,) = streaming.host.records("VM", name_label=instance.name)
    streaming.host.xenapi.VM.hard_shutdown(
        streaming.host.xenapi.VM.get_by_uuid(vm["uuid"])
    )
    (vbd,) = (streaming.host.record("VBD", ref) for ref in vm["VBDs"])
    before = kept(streaming)
    disk = vdi.get(streaming.driver.home.session, vbd["VDI"])
    assert "vhd-parent" in disk.sm_config
    image = stored(streaming, disk)
    assert kept(streaming) == before
    with tarfile.open(fileobj=io.BytesIO(image)) as tar:
        assert tar.getnames() == ["0.vhd"]
        tar.extractall(streaming.folder, filter="data")
    alone = streaming.folder / "0.vhd"
    seen = vhd_judges.qemu_content(alone, streaming.folder / "seen.raw")
    assert seen == builders.CONTENT.ljust(16 * builders.MIB, b"\0")
    again = fetched(streaming, streaming.add_image(image))
    assert content(streaming, again.uuid) == seen


def test_each_handler_reads_what_the_other_stored(plain, tarball):
    first = fetched(plain, plain.add_image(tarball))
    ours = plain.add_image(stored(plain, first))
    theirs = direct_vhd.fetch(
        plain.driver.home, source.open_image(plain.context, ours), RULES, None
    )
    assert content(plain, theirs.uuid) == content(plain, first.uuid)
    service = GlanceServer()
    try:
        image = service.image()
        target = source.ImageTarget(
            image.identity, {}, {"X-Auth-Token": "t"}, (service.url,)
        )
        direct_vhd.store(plain.driver.home, target, [theirs.uuid], RULES)
    finally:
        service.close()
    back = fetched(plain, plain.add_image(bytes(image.data)))
    assert content(plain, back.uuid) == content(plain, first.uuid)


def test_a_snapshot_boots(streaming, sr, tarball):
    streaming.set_option("vhd_coalesce_poll_interval", 0.2)
    streaming.image_id = streaming.add_image(tarball)
    snapshots = Snapshots(streaming)
    server = snapshots.server()
    server.write(5 * builders.MIB, b"written by the guest")
    before = on_host(streaming)
    with streaming.recording() as made:
        image = snapshots.take(server)
    assert len(made) <= 6, made
    assert streaming.sim.settle_storage()
    assert on_host(streaming) == before
    assert image.status == "active"
    assert unpacked(streaming, image) == (1, server.written)
    again = snapshots.server(image.identity)
    assert sha256(content(streaming, again.disk["uuid"])) == server.written


def test_an_export_that_breaks_ends_the_upload(plain, tarball):
    disk = fetched(plain, plain.add_image(tarball))
    plain.sim.faults.add("GET /export_raw_vdi", ["VDI_IO_ERROR", "Device I/O errors"])
    before = kept(plain)
    with pytest.raises(errors.XapiError):
        stored(plain, disk)
    assert kept(plain) == before
