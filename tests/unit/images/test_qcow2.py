# SPDX-License-Identifier: Apache-2.0
"""QCOW2 images of qemu-img's and of somebody who means harm."""

import errno
import os
import struct
import subprocess

import pytest

from xenapi_driver import exceptions
from xenapi_driver.images import qcow2

MIB = 2**20
SIZE = 24 * MIB
DATA = bytes(range(256)) * 4096


@pytest.fixture
def raw(tmp_path):
    """The content of all images here."""
    path = tmp_path / "content.raw"
    with open(path, "wb") as file:
        file.write(DATA)
        file.seek(17 * MIB)
        file.write(DATA)
        file.truncate(SIZE)
    return path


@pytest.fixture
def folder(tmp_path):
    """Where images are converted, in which nothing is left."""
    path = tmp_path / "work"
    path.mkdir()
    yield str(path)
    assert list(path.iterdir()) == []


def image(raw, *words):
    """Return the content as QCOW2."""
    path = raw.with_name("image.qcow2")
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, raw, path],
        check=True,
    )
    return path.read_bytes()


def pieces_of(data):
    for at in range(0, len(data), 333):
        yield data[at : at + 333]


def accept(size):
    assert size == SIZE


def refusal(data, folder, kind=exceptions.ImageUnusable):
    with (
        pytest.raises(kind) as refused,
        qcow2.converted("an-id", iter([data]), folder, accept),
    ):
        pytest.fail("it was converted")
    assert str(refused.value).startswith("Image an-id ")
    return str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-c",),
        ("-c", "-o", "compression_type=zstd"),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=2M"),
        ("-o", "extended_l2=on,cluster_size=128k"),
        ("-o", "preallocation=metadata"),
    ],
    ids="".join,
)
def test_the_content_is_that_of_the_image_and_stays_sparse(raw, folder, words):
    data = image(raw, *words)
    if "extended_l2=on,cluster_size=128k" in words:
        # oslo.utils takes what it does not know for dangerous.
        assert "feature" in refusal(data, folder)
        return
    with qcow2.converted("an-id", pieces_of(data), folder, accept) as disk:
        assert disk.size == SIZE
        assert disk.file.read() == raw.read_bytes()
        assert os.fstat(disk.file.fileno()).st_blocks * 512 < 4 * MIB


def test_a_disk_that_does_not_suit_is_refused_when_its_size_is_known(raw, folder):
    given = []

    def counted():
        for piece in pieces_of(image(raw)):
            given.append(len(piece))
            yield piece

    def refuse(size):
        raise exceptions.ImageTooLarge("an-id", f"{size} bytes")

    with (
        pytest.raises(exceptions.ImageTooLarge, match=str(SIZE)),
        qcow2.converted("an-id", counted(), folder, refuse),
    ):
        pytest.fail("it was converted")
    assert sum(given) < 1024


def test_an_image_that_names_a_file_of_the_machine_is_refused(raw, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SIZE))
    on_it = tmp_path / "on-it.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2"]
        + ["-b", secret, "-F", "raw", on_it],
        check=True,
    )
    assert "backing file" in refusal(on_it.read_bytes(), folder)
    beside = tmp_path / "beside.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2"]
        + ["-o", f"data_file={secret}", beside, str(SIZE)],
        check=True,
    )
    assert "data_file" in refusal(beside.read_bytes(), folder)


def test_what_is_no_qcow2_is_refused(raw, folder):
    assert "something else" in refusal(raw.read_bytes(), folder)
    assert "too short" in refusal(b"QFI\xfb", folder)
    assert "version" in refusal(struct.pack(">4sI", b"QFI\xfb", 1).ljust(512), folder)


def test_a_damaged_image_is_refused_with_what_qemu_img_says(raw, folder):
    data = bytearray(image(raw))
    (l1,) = struct.unpack_from(">Q", data, 40)
    struct.pack_into(">Q", data, l1, 0x12345600)  # an L2 table that is out of line
    assert "qemu-img check says ERROR" in refusal(bytes(data), folder)


def test_an_image_that_is_cut_is_not_taken_for_one_with_zeros(raw, folder):
    data = image(raw)
    assert "end of the file" in refusal(data[: len(data) // 2], folder)
    for table in (3, 4):  # of all tables, and the first of those
        cut = refusal(data[: table * 65536], folder)
        assert "too short" in cut or "end of the file" in cut


def test_an_image_with_lost_room_is_as_good_as_others(raw, folder):
    data = bytearray(image(raw))
    (counts,) = struct.unpack_from(">Q", data, 48)
    (block,) = struct.unpack_from(">Q", data, counts)
    last = len(data) // 65536 - 1
    data += bytes(65536)
    struct.pack_into(">H", data, block + 2 * (last + 1), 1)
    with qcow2.converted("an-id", iter([bytes(data)]), folder, accept) as disk:
        assert disk.file.read() == raw.read_bytes()


def test_a_service_that_is_killed_leaves_nothing(raw, folder):
    def arriving():
        yield image(raw)
        assert os.listdir(folder) == []

    with qcow2.converted("an-id", arriving(), folder, accept) as disk:
        # A killed process cannot remove a file: none here has a name.
        assert os.listdir(folder) == []
        assert disk.file.read() == raw.read_bytes()


def test_an_image_far_larger_than_its_disk_is_not_written_down(
    raw, folder, monkeypatch
):
    monkeypatch.setattr(qcow2, "_MOST_BESIDE", MIB)
    taken = []

    def endless():
        yield image(raw)
        while True:
            taken.append(MIB)
            yield bytes(MIB)

    with (
        pytest.raises(exceptions.ImageUnusable, match="more than twice"),
        qcow2.converted("an-id", endless(), folder, accept),
    ):
        pytest.fail("it was converted")
    assert sum(taken) <= 2 * SIZE + 2 * MIB


def test_a_source_that_fails_leaves_nothing(raw, folder):
    def failing():
        yield image(raw)
        raise exceptions.TransferFailed("an-id", "cut")

    with (
        pytest.raises(exceptions.TransferFailed, match="cut"),
        qcow2.converted("an-id", failing(), folder, accept),
    ):
        pytest.fail("it was converted")


def test_without_qemu_img_the_error_names_it(raw, folder, monkeypatch):
    data = image(raw)
    monkeypatch.setenv("PATH", folder)
    assert "qemu-img is not installed" in refusal(data, folder, exceptions.UnfitHost)


def test_a_folder_that_is_not_there_is_named(raw, tmp_path):
    missing = str(tmp_path / "missing")
    said = refusal(image(raw), missing, exceptions.UnfitHost)
    assert missing in said and os.strerror(errno.ENOENT) in said


@pytest.fixture
def small(tmp_path):
    """A file system with room for the image alone."""
    path = tmp_path / "small"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(words).returncode:
        pytest.skip("missing: the right to mount")
    yield str(path)
    subprocess.run(["umount", str(path)], check=True)


def test_a_folder_that_is_full_is_no_fault_of_the_image(raw, small):
    packed = image(raw)  # 2 MiB of data: once fits, twice does not
    said = refusal(packed, small, exceptions.UnfitHost)
    assert small in said and os.strerror(errno.ENOSPC) in said
    assert os.listdir(small) == []
    said = refusal(packed * 2, small, exceptions.UnfitHost)
    assert small in said and os.strerror(errno.ENOSPC) in said
    assert os.listdir(small) == []
