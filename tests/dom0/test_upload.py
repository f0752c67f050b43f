# SPDX-License-Identifier: Apache-2.0
"""Uploads: what the image service holds afterwards, judged by other programs."""

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import uuid
import zlib

import pytest
from xenapi_dom0 import arguments, deflate, failures, upload, web

from tests.dom0 import chain_reader, glance_server, golden, image_server
from tests.dom0.glance_server import GlanceServer, Trouble
from tests.dom0.scratch_host import PluginFailed
from tests.dom0.vhd_files import MIB, VhdFile, chain

LIBVHDI = chain_reader.libvhdi_python()
DEAD = "http://127.0.0.1:1"


@pytest.fixture
def glance():
    server = GlanceServer()
    yield server
    server.close()


def put(host, disks):
    """Put the files of a chain into the SR; return their UUIDs, leaf first."""
    uuids = [str(uuid.uuid4()) for _ in disks]
    for name, disk in zip(uuids, disks, strict=True):
        (host.sr / f"{name}.vhd").write_bytes(bytes(disk))
    return uuids


def request(host, glance, image, uuids, **changes):
    made = {
        "image_id": image.identity,
        "urls": [f"{glance.url}/v2/images/{image.identity}"],
        "attempts": 3,
        "headers": {"X-Auth-Token": "secret-token"},
        "sr_path": host.sr_path,
        "vdi_uuids": uuids,
        "properties": {},
        "compression_level": None,
        "verify": {"ca_file": None, "insecure": False},
    }
    made.update(changes)
    return made


def uploaded(host, glance, disks, **changes):
    """Upload a chain and return the image; the SR holds what it held."""
    image = glance.image()
    uuids = put(host, disks)
    before = state(host)
    said = host.call(
        "glance", "upload_vhd", request(host, glance, image, uuids, **changes)
    )
    assert before == state(host)
    assert image.status == "active"
    assert {
        "bytes": len(image.data),
        "checksum": {
            "algo": "sha512", "value": hashlib.sha512(image.data).hexdigest()
        },
    } == said
    return image


def state(host):
    """What is in the SR, byte for byte."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in host.sr.rglob("*") if path.is_file()
    }  # fmt: skip


def members(image):
    with tarfile.open(fileobj=io.BytesIO(image.data)) as archive:
        return [
            (one.name, archive.extractfile(one).read() if one.isfile() else None)
            for one in archive
        ]


def test_a_chain_arrives_as_earlier_releases_wrote_it(host, glance):
    disks = chain(1, 2, 3)
    image = uploaded(host, glance, disks)
    expected = [(f"./{number}.vhd", bytes(disk)) for number, disk in enumerate(disks)]
    assert [(".", None), *expected] == [
        (name.rstrip("/"), data) for name, data in members(image)
    ]
    assert {
        "container_format": "ovf", "disk_format": "vhd", "visibility": "private"
    } == image.fields
    assert glance.tokens == {"secret-token"}
    path = f"/v2/images/{image.identity}"
    assert [
        ("PATCH", path), ("GET", path), ("PUT", path + "/file"), ("GET", path)
    ] == glance.asked


def test_gzip_tar_and_libvhdi_read_it(old_host, glance, tmp_path):
    names = ("leaf", "mid", "base")
    image = uploaded(old_host, glance, [golden.read(name) for name in names])
    file = tmp_path / "image.tgz"
    file.write_bytes(image.data)
    subprocess.run(["gzip", "-t", file], check=True)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", file, "-C", tmp_path / "out"], check=True)
    for number, name in enumerate(names):
        assert golden.read(name) == (tmp_path / f"out/{number}.vhd").read_bytes()
    if LIBVHDI is None:
        pytest.skip("NO PYTHON BINDINGS OF libvhdi HERE")
    # The disks keep the names of their parents, which a reader finds beside them.
    for number, parent in ((0, 1), (1, 2)):
        called = chain_reader.locator_names(tmp_path / f"out/{number}.vhd").pop()
        os.link(tmp_path / f"out/{parent}.vhd", tmp_path / "out" / called)
    found = chain_reader.libvhdi_sha256(LIBVHDI, tmp_path / "out/0.vhd")
    assert golden.CONTENT["leaf"] == found


def test_what_goes_up_comes_down(old_host, glance):
    image = uploaded(old_host, glance, chain(1, 2, 3))
    said = old_host.call("glance", "download_vhd", {
        "image_id": image.identity,
        "urls": [f"{glance.url}/v2/images/{image.identity}/file"],
        "headers": {"X-Auth-Token": "secret-token"},
        "sr_path": old_host.sr_path,
        "uuid_stack": [str(uuid.uuid4()) for _ in range(16)],
        "checksum": {
            "algo": "sha512", "value": hashlib.sha512(image.data).hexdigest()
        },
        "verify": {"ca_file": None, "insecure": False},
    })  # fmt: skip
    leaf = old_host.sr / (said["root"]["uuid"] + ".vhd")
    assert [1, 2, 3] == chain_reader.first_bytes(leaf)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_the_compression_level_is_the_callers(old_host, glance, level):
    disk = bytearray(bytes(VhdFile(fill=1)))
    text = b" ".join(b"%d" % number for number in range(200000))
    disk[4096:4096 + len(text)] = text
    image = uploaded(old_host, glance, [disk], compression_level=level)
    plain = gzip.decompress(image.data)
    expected = len(gzip.compress(plain, level))
    assert 0.9 * expected < len(image.data) < 1.1 * expected


def test_properties_have_underscores(old_host, glance):
    properties = {"auto-disk-config": "True", "os_type": "linux \u00e9"}
    image = uploaded(old_host, glance, chain(1), properties=properties)
    assert ("True", "linux \u00e9") == (
        image.fields["auto_disk_config"], image.fields["os_type"]
    )


def test_properties_that_may_not_be_set_do_not_stop_it(old_host, glance):
    glance.refuses["PATCH"] = 403
    uploaded(old_host, glance, chain(1))


def test_tls_with_a_certificate(old_host, tmp_path):
    cert, key = image_server.certificate(tmp_path, "glance", "127.0.0.1")
    server = GlanceServer(context=image_server.server_context(cert, key))
    (old_host.root / "etc").mkdir(exist_ok=True)
    (old_host.root / "etc/ca.pem").write_bytes(cert.read_bytes())
    verify = {"ca_file": "/etc/ca.pem", "insecure": False}
    try:
        uploaded(old_host, server, chain(1, 2), verify=verify)
        server.asked.clear()
        image = server.image()
        uuids = put(old_host, chain(1))
        with pytest.raises(PluginFailed) as caught:
            old_host.call(
                "glance", "upload_vhd",
                request(old_host, server, image, uuids, attempts=1),
            )
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.params[0]
        assert (server.asked, image.status) == ([], "queued")
    finally:
        server.close()


class TestSeveralServers:
    """Nothing was accepted: the next server gets it."""

    @pytest.fixture
    def second(self, glance):
        server = GlanceServer(glance.images)
        yield server
        server.close()

    def both(self, host, glance, second, image, uuids, *first):
        urls = [*first, glance.url, second.url]
        return request(
            host, glance, image, uuids,
            urls=[f"{url}/v2/images/{image.identity}" for url in urls],
        )

    @pytest.mark.parametrize(
        "trouble",
        [
            Trouble(status=503), Trouble(status=500, after=1),
            Trouble(hang_up=True), Trouble(hang_up=True, after=1),
            Trouble(hang_up=True, after=3 * MIB),
        ],
    )
    def test_the_next_one_takes_it(self, old_host, glance, second, trouble):
        glance.troubles.append(trouble)
        image = glance.image()
        disk = bytearray(bytes(VhdFile(fill=1)))
        disk[4096:4096 + MIB] = random.Random(1).randbytes(MIB)
        uuids = put(old_host, [disk])
        old_host.call(
            "glance", "upload_vhd",
            self.both(old_host, glance, second, image, uuids, DEAD),
        )
        assert [("./0.vhd", bytes(disk))] == members(image)[1:]
        assert (glance.puts(), second.puts()) == (1, 1)

    def test_a_lost_answer_is_no_second_upload(self, old_host, glance, second):
        glance.troubles.append(Trouble(lose_answer=True))
        image = glance.image()
        uuids = put(old_host, chain(1))
        old_host.call(
            "glance", "upload_vhd", self.both(old_host, glance, second, image, uuids)
        )
        assert image.status == "active"
        assert (glance.puts(), second.puts()) == (1, 0)


def refused(host, glance, image, uuids, **changes):
    """Upload what is refused; the SR is as it was. Return the failure."""
    before = state(host)
    with pytest.raises(PluginFailed) as caught:
        host.call("glance", "upload_vhd", request(
            host, glance, image, uuids, **changes
        ))  # fmt: skip
    assert before == state(host)
    assert "secret-token" not in str(caught.value)
    return caught.value


def test_servers_that_never_take_it(old_host, glance):
    image = glance.image()
    glance.troubles = [Trouble(status=503)] * 5
    failure = refused(old_host, glance, image, put(old_host, chain(1)))
    assert ("IMAGE_TRANSFER_FAILED", "queued", 3) == (
        failure.code, image.status, glance.puts()
    )


def test_an_image_that_somebody_else_stores_is_waited_for_a_little(old_host, glance):
    image = glance.image(status="saving")
    failure = refused(old_host, glance, image, put(old_host, chain(1)))
    assert ("IMAGE_TRANSFER_FAILED", 0) == (failure.code, glance.puts())


def test_an_image_that_is_gone_is_not_found(old_host, glance):
    image = glance_server.Image()
    failure = refused(old_host, glance, image, put(old_host, chain(1)))
    assert "IMAGE_NOT_FOUND" == failure.code


def test_an_image_that_goes_meanwhile_is_not_found(old_host, glance):
    image = glance.image()
    glance.troubles = [Trouble(status=404, after=1)]
    failure = refused(old_host, glance, image, put(old_host, chain(1)))
    assert "IMAGE_NOT_FOUND" == failure.code


def test_other_data_than_was_sent_is_told(old_host, glance):
    image = glance.image()
    glance.troubles = [Trouble(damage=True)]
    failure = refused(old_host, glance, image, put(old_host, chain(1)))
    assert "CHECKSUM_MISMATCH" == failure.code


def test_a_disk_that_is_written_is_refused(old_host, glance):
    image = glance.image()
    uuids = put(old_host, chain(1, 2))
    for number in (0, 1):
        with open(old_host.sr / f"{uuids[number]}.vhd", "r+b"):
            failure = refused(old_host, glance, image, uuids)
        assert ("BUSY", []) == (failure.code, glance.asked)
        assert uuids[number] in failure.params[0]
    with open(old_host.sr / f"{uuids[0]}.vhd", "rb"):
        assert old_host.call(
            "glance", "upload_vhd", request(old_host, glance, image, uuids)
        )


BAD = chain(1, 2)
CHAINS = {
    "a damaged footer": ([golden.read("bad-footer-checksum")], "IMAGE_CORRUPT"),
    "a damaged table": ([golden.read("bad-bat")], "IMAGE_CORRUPT"),
    "no VHD": ([b"x" * 5000], "IMAGE_CORRUPT"),
    "no base": (BAD[:1], "BAD_ARGUMENT"),
    "wrong order": (BAD[::-1], "BAD_ARGUMENT"),
    "strangers": ([BAD[0], VhdFile(fill=2)], "BAD_ARGUMENT"),
    "a hidden leaf": ([golden.read("hidden")], "BAD_ARGUMENT"),
    "a raw base": ([golden.read("on-raw")], "BAD_ARGUMENT"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_could_not_be_downloaded_is_not_uploaded(old_host, glance, name):
    disks, code = CHAINS[name]
    failure = refused(old_host, glance, glance.image(), put(old_host, disks))
    assert (code, []) == (failure.code, glance.asked)


def test_a_disk_that_is_no_file_of_the_sr(old_host, glance, tmp_path):
    image = glance.image()
    missing = str(uuid.uuid4())
    assert "NOT_FOUND" == refused(old_host, glance, image, [missing]).code
    (tmp_path / "secret").write_bytes(bytes(VhdFile()))
    (old_host.sr / f"{missing}.vhd").symlink_to(tmp_path / "secret")
    assert refused(old_host, glance, image, [missing]).code in (
        "NOT_FOUND", "COMMAND_FAILED"
    )
    (old_host.sr / f"{missing}.vhd").unlink()
    os.mkfifo(old_host.sr / f"{missing}.vhd")
    assert "NOT_FOUND" == refused(old_host, glance, image, [missing]).code
    assert glance.asked == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("urls", [[], ["http://h/v2/images/x"], [DEAD + "/v2/images/"], "x", None,
                  [DEAD + "?/v2/images/" + str(uuid.UUID(int=1))]]),
        ("vdi_uuids", [[], ["x"], None, [str(uuid.uuid4())] * 2]),
        ("properties", [None, [], {"a/b": "x"}, {"a": 1}, {"": "x"}, {"a": None}]),
        ("compression_level", [-1, 10, "6", 1.5, True]),
        ("attempts", [0, 101, "1"]),
        ("sr_path", ["/etc", None]),
        ("other", [1]),
    ],
)
def test_each_bad_argument_is_refused_by_its_name(old_host, glance, name, values):
    image = glance.image(identity=str(uuid.UUID(int=1)))
    uuids = put(old_host, chain(1))
    for value in values:
        failure = refused(old_host, glance, image, uuids, **{name: value})
        assert ("BAD_ARGUMENT", name) == (failure.code, failure.params[0]), value
    assert glance.asked == []


class TestAnswers:
    """What the service may say, in this process."""

    def code(self, glance, image):
        place = web.Place(
            image.identity, [f"{glance.url}/v2/images/{image.identity}"], {},
            arguments.Verify(None, False), 3, ("http",),
        )
        with pytest.raises(failures.Failure) as caught:
            upload.store(place, {}, lambda: (b"x" * 300000 for _ in range(9)))
        return caught.value.code

    @pytest.mark.parametrize(
        "status",
        [400, 401, 402, 403, 405, 406, 407, 409, 410, 411, 412, 413, 414, 415, 416,
         417, 422, 423, 424, 426, 501, 505, 510],
    )
    @pytest.mark.parametrize("after", [1, None])
    def test_what_is_final_is_not_tried_again(self, glance, status, after):
        image = glance.image()
        glance.troubles = [Trouble(status=status, after=after)] * 3
        assert "NOT_PERMITTED" == self.code(glance, image)
        assert ("queued", 1) == (image.status, glance.puts())

    @pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 507, 599, 302])
    def test_what_may_pass_is_tried_again(self, glance, status, monkeypatch):
        monkeypatch.setattr(web, "FIRST_PAUSE", 0.01)
        image = glance.image()
        glance.troubles = [Trouble(status=status)] * 5
        assert "IMAGE_TRANSFER_FAILED" == self.code(glance, image)
        assert ("queued", 3) == (image.status, glance.puts())

    @pytest.mark.parametrize("status", ["active", "deleted", "importing", None])
    def test_an_image_that_does_not_wait_gets_nothing(self, glance, status):
        image = glance.image(status=status)
        assert "NOT_PERMITTED" == self.code(glance, image)
        assert glance.puts() == 0


class TestDeflate:
    """The stream itself, in this process."""

    @pytest.mark.parametrize("count", [1, 2, 5])
    @pytest.mark.parametrize("level", [0, 1, 6, 9])
    def test_every_gunzip_reads_it(self, count, level):
        dice = random.Random(3)
        pieces = [dice.randbytes(100000) + bytes(100000) for _ in range(7)]
        pieces.append(b"the last one is short")
        packed = b"".join(deflate.gzipped(iter(pieces), level, count))
        assert b"".join(pieces) == gzip.decompress(packed)
        inflate = zlib.decompressobj(31)
        assert b"".join(pieces) == inflate.decompress(packed)
        assert inflate.eof and not inflate.unused_data
        said = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True)
        assert (b"".join(pieces), b"") == (said.stdout, said.stderr)

    def test_nothing_is_a_stream_too(self):
        packed = b"".join(deflate.gzipped(iter([]), 6, 2))
        assert gzip.decompress(packed) == b""

    def test_the_pieces_share_what_they_repeat(self):
        piece = random.Random(4).randbytes(16 * 1024)
        packed = b"".join(deflate.gzipped(iter([piece] * 20), 9, 2))
        assert len(packed) < 2 * len(piece)

    @pytest.mark.parametrize("level", [1, 6, 9])
    def test_only_noise_is_left_as_it_is(self, level):
        dice = random.Random(6)
        noise = dice.randbytes(256 * 1024)
        text = b" ".join(b"%d" % number for number in range(60000))[:256 * 1024]
        mixed = noise[:128 * 1024] + text[:128 * 1024]
        base64 = noise.hex().encode()[:256 * 1024]
        for piece in (text, mixed, base64, noise):
            packed = b"".join(deflate.gzipped(iter([piece]), level, 1))
            assert len(packed) < 1.02 * len(gzip.compress(piece, level))
