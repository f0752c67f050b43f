# SPDX-License-Identifier: Apache-2.0
"""Good images: what is in the SR afterwards."""

import hashlib
import shutil
import subprocess
import tarfile

import pytest

from tests.dom0 import archives, chain_reader, golden
from tests.dom0.image_server import Answer
from tests.dom0.vhd_files import MIB, VhdFile, chain

LIBVHDI = chain_reader.libvhdi_python()


def names(said):
    return sorted(uuid + ".vhd" for uuid in said["chain"])


def leaf(host, said):
    return host.sr / (said["root"]["uuid"] + ".vhd")


def test_one_disk_arrives_byte_for_byte(host, fetch, download):
    disk = VhdFile(fill=7)
    request = download()
    said = fetch(
        Answer(archives.image([disk])), uuid_stack=request["uuid_stack"]
    )
    assert request["uuid_stack"][-1] == said["root"]["uuid"]
    assert [said["root"]["uuid"]] == said["chain"]
    assert said["root"]["virtual_size"] == 8 * MIB
    assert len(bytes(disk)) == said["bytes"]
    assert names(said) == host.left()
    assert bytes(disk) == leaf(host, said).read_bytes()


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("compress", [True, False])
def test_a_chain_of_three_is_linked_under_its_new_names(host, fetch, prefix, compress):
    disks = chain(1, 2, 3)
    said = fetch(Answer(archives.image(disks, prefix, compress)))
    assert names(said) == host.left()
    files = chain_reader.chain_files(leaf(host, said))
    assert [uuid + ".vhd" for uuid in said["chain"]] == [path.name for path in files]
    assert chain_reader.first_bytes(leaf(host, said)) == [1, 2, 3]
    # A parent that is not hidden would never be collected by the SR.
    assert [chain_reader.hidden(path) for path in files] == [False, True, True]


def test_sixteen_disks_are_the_longest_chain(host, fetch):
    disks = chain(*range(16))
    said = fetch(Answer(archives.image(disks)))
    assert len(said["chain"]) == 16
    assert list(range(16)) == chain_reader.first_bytes(leaf(host, said))


def test_old_names_are_ordered_snap_image_base(host, fetch):
    disks = chain(1, 2, 3)
    image = archives.named(
        {"base.vhd": disks[2], "snap.vhd": disks[0], "image.vhd": disks[1],
         "swap.vhd": b"no disk", "ovf.xml": b"<x/>"}
    )
    said = fetch(Answer(image))
    assert chain_reader.first_bytes(leaf(host, said)) == [1, 2, 3]
    assert names(said) == host.left()


def test_one_file_of_any_name_is_the_leaf(host, fetch):
    said = fetch(Answer(archives.named({"my disk.vhd": VhdFile(fill=9)})))
    assert chain_reader.first_bytes(leaf(host, said)) == [9]


def test_pax_headers_are_read(host, fetch):
    info, data = archives.regular("0.vhd", bytes(VhdFile(fill=9)))
    info.mtime = 1700000000.5  # what makes Python write a pax header
    info.pax_headers = {"path": "./0.vhd", "comment": "x" * 200}
    image = archives.pack(archives.tar([(info, data)], tarfile.PAX_FORMAT))
    said = fetch(Answer(image))
    assert chain_reader.first_bytes(leaf(host, said)) == [9]


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_the_checksum_is_of_the_data_as_it_travels(host, fetch, algorithm):
    image = archives.image([VhdFile(fill=1)])
    value = hashlib.new(algorithm, image).hexdigest()
    said = fetch(Answer(image), checksum={"algo": algorithm, "value": value.upper()})
    assert chain_reader.first_bytes(leaf(host, said)) == [1]


def test_an_etag_that_is_no_md5_is_no_checksum(host, fetch):
    image = archives.image([VhdFile(fill=1)])
    etag = {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-3"'}
    said = fetch(Answer(image, headers=etag))
    assert chain_reader.first_bytes(leaf(host, said)) == [1]


def test_headers_travel_and_an_own_range_does_not(fetch, images):
    fetch(Answer(archives.image([VhdFile()])), headers={"X-Auth-Token": "t", "X-A": ""})
    _path, headers = images.asked[-1]
    assert headers["X-Auth-Token"] == "t"
    assert headers["Accept-Encoding"] == "identity"


def test_a_chunked_answer_is_read(host, fetch):
    fetch(Answer(archives.image([VhdFile(fill=1)]), chunked=True))
    assert len(host.left()) == 1


def test_max_bytes_is_the_sum_of_the_files(host, fetch):
    disks = chain(1, 2)
    total = sum(len(bytes(disk)) for disk in disks)
    assert total == fetch(Answer(archives.image(disks)), max_bytes=total)["bytes"]


def test_a_redirect_to_another_server_is_followed_without_the_token(
    host, fetch, secure_images, images
):
    images.answers["/elsewhere"] = Answer(archives.image([VhdFile(fill=1)]))
    other = images.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    fetch(Answer(status=302, headers={"Location": other}))
    first, second = images.asked
    assert first[1]["X-Auth-Token"] == "secret-token"
    assert "X-Auth-Token" not in second[1]


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="NO qemu-img HERE")
def test_qemu_reads_the_base(host, fetch, tmp_path):
    said = fetch(Answer(archives.image(chain(1, 5))))
    base = host.sr / (said["chain"][-1] + ".vhd")
    raw = tmp_path / "base.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(base), str(raw)],
        check=True,
    )
    content = raw.read_bytes()
    assert len(content) == 8 * MIB
    assert content[: 2 * MIB] == b"\5" * 2 * MIB
    assert content[2 * MIB:].strip(b"\0") == b""


@pytest.mark.skipif(LIBVHDI is None, reason="NO PYTHON BINDINGS OF libvhdi HERE")
def test_libvhdi_reads_a_real_chain_through_its_new_names(host, fetch):
    disks = [golden.read(name) for name in ("leaf", "mid", "base")]
    said = fetch(Answer(archives.image(disks)))
    found = [
        chain_reader.libvhdi_sha256(LIBVHDI, host.sr / (uuid + ".vhd"))
        for uuid in said["chain"]
    ]
    assert [golden.CONTENT[name] for name in ("leaf", "mid", "base")] == found
