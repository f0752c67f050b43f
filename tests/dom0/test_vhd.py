# SPDX-License-Identifier: Apache-2.0
"""The VHD reader of the plugins against files that a host's own tool made."""

import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenapi_dom0 import failures, vhd

from tests.dom0 import chain_reader, golden
from tests.dom0.vhd_files import VhdFile
from xenapi_driver.sim.storage import vhd as another_writer

EPOCH = 946684800
SHARED = Path(__file__).parents[3] / "shared/golden/vhd"


@pytest.fixture
def disk(tmp_path):
    """Return a function that puts a golden file into a folder and checks it."""

    def put(name, called=None):
        path = tmp_path / (called or f"{name}.vhd")
        path.write_bytes(golden.read(name))
        return vhd.check(str(path), name)

    return put


@pytest.mark.parametrize(
    ("name", "kind", "hidden"),
    [("base", vhd.DYNAMIC, False), ("mid", vhd.DIFFERENCING, False),
     ("leaf", vhd.DIFFERENCING, False), ("hidden", vhd.DYNAMIC, True),
     ("empty-64m", vhd.DYNAMIC, False), ("on-raw", vhd.DIFFERENCING, False),
     ("mid-after-coalesce-of-leaf", vhd.DIFFERENCING, False)],
)
def test_what_the_hosts_tool_made_is_understood(disk, name, kind, hidden):
    found = disk(name)
    assert (kind, hidden, 64 * 1024 * 1024) == (
        found.kind, found.hidden, found.virtual_size
    )


def test_a_disk_that_the_hosts_tool_made_larger_is_understood(disk):
    assert disk("base-resized-128m").virtual_size == 128 * 1024 * 1024


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bad-bat", "the block bitmap's header is damaged"),
     ("bad-footer-checksum", "the footer's checksum is wrong")],
)
def test_what_the_hosts_tool_refuses_is_refused(disk, name, reason):
    with pytest.raises(failures.Failure) as caught:
        disk(name)
    assert caught.value.code == failures.IMAGE_CORRUPT
    assert caught.value.params == [f"{name}: {reason}"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of golden disks beside us")
def test_every_golden_disk_is_judged_as_the_hosts_tool_judges_it(tmp_path):
    said = (SHARED / "expected.txt").read_text()
    good = set(re.findall(r"^(\S+) is valid$", said, re.MULTILINE))
    disks = {path.name for path in SHARED.glob("*.vhd")}
    assert good < disks
    for name in disks:
        try:
            found = vhd.check(str(SHARED / name), name)
        except failures.Failure:
            assert name not in good
        else:
            assert name in good
            parents = vhd.parent_names(found)
            if parents:
                assert f"\n{parents[0]}\n" in said


@pytest.mark.parametrize(("child", "parent"), [("leaf", "mid"), ("mid", "base")])
def test_a_parent_is_written_as_the_hosts_tool_writes_it(disk, tmp_path, child, parent):
    expected = golden.read(child)
    time_at = 512 + 56  # parent's time in the header
    seconds = int.from_bytes(expected[time_at:time_at + 4], "big")
    child_disk, parent_disk = disk(child), disk(parent)
    # First away from the right one, so that every field has to be written again.
    vhd.set_parent(child_disk, disk("base", "a-much-longer-name-than-before.vhd"))
    assert expected != (tmp_path / f"{child}.vhd").read_bytes()
    os.utime(parent_disk.path, (EPOCH + seconds, EPOCH + seconds))
    vhd.set_parent(child_disk, parent_disk)
    assert expected == (tmp_path / f"{child}.vhd").read_bytes()


def test_hiding_is_what_the_hosts_tool_does(disk, tmp_path):
    hidden = golden.read("hidden")
    visible = tmp_path / "visible.vhd"
    # The tool's own flag taken away by hand, with the checksum: one bit less set.
    data = bytearray(hidden)
    for at in (0, len(data) - 512):
        data[at + 85] = 0
        stored = int.from_bytes(data[at + 64:at + 68], "big")
        data[at + 64:at + 68] = (stored + 1).to_bytes(4, "big")
    visible.write_bytes(data)
    vhd.hide(vhd.check(str(visible), "visible"))
    assert hidden == visible.read_bytes()


def test_no_change_of_one_metadata_byte_does_more_than_refuse(tmp_path):
    """Whatever byte is wrong: the answer is a Vhd or IMAGE_CORRUPT, nothing else."""
    good = bytes(VhdFile(fill=1))
    path = tmp_path / "changed.vhd"
    path.write_bytes(good)
    dice = random.Random(20261121)
    refused = 0
    with open(path, "r+b") as out:
        for _ in range(400):
            at = dice.choice([dice.randrange(1536 + 4), len(good) - 1 -
                              dice.randrange(512)])
            out.seek(at)
            out.write(bytes([good[at] ^ (1 << dice.randrange(8))]))
            out.flush()
            try:
                vhd.check(str(path), "x")
            except failures.Failure as exc:
                assert exc.code == failures.IMAGE_CORRUPT
                refused += 1
            out.seek(at)
            out.write(good[at:at + 1])
    assert refused == 400


def refused(path):
    with pytest.raises(failures.Failure) as caught:
        vhd.check(str(path), "x.vhd")
    assert caught.value.code == failures.IMAGE_CORRUPT
    return caught.value.params[0]


FOOTER_RULES = [
    (8, struct.pack(">I", 0), "features"),
    (8, struct.pack(">I", 6), "features"),
    (12, struct.pack(">I", 0x00010001), "version"),
    (16, struct.pack(">Q", 2**64 - 1), "header offset"),
    (24, struct.pack(">I", 0xFFFFFFFF), "synchronise the clocks"),
    (48, struct.pack(">Q", 0), "virtual size"),
    (48, struct.pack(">Q", 8 * 1024**2 + 1), "virtual size"),
    (60, struct.pack(">I", 2), "of type fixed"),
    (60, struct.pack(">I", 9), "of type unknown"),
    (68, bytes(16), "UUID is zero"),
    (84, b"\2", "saved"),
    (85, b"\2", "hidden"),
    (300, b"\1", "reserved part of the footer"),
]
HEADER_RULES = [
    (0, b"cxsparsf", "no dynamic disk header"),
    (8, bytes(8), "a place for data"),
    (16, struct.pack(">Q", 100), "table offset"),
    (24, struct.pack(">I", 0x00020000), "header version"),
    (28, struct.pack(">I", 1), "too small"),
    (28, struct.pack(">I", 0x7FFFFFFF), "larger than the format"),
    (32, struct.pack(">I", 4096), "blocks of 4096"),
    (40, b"\1" * 16, "names a parent"),
    (64, b"\0p", "names a parent"),
    (600, b"MacX", "names a parent"),
    (800, b"\1", "reserved part of the header"),
]


def changed(data, start, length, checksum_at, rule):
    """Change bytes of a footer or header and write its checksum anew."""
    at, value, _reason = rule
    part = bytearray(data[start:start + length])
    part[at:at + len(value)] = value
    part[checksum_at:checksum_at + 4] = bytes(4)
    part[checksum_at:checksum_at + 4] = struct.pack(">I", ~sum(part) & 0xFFFFFFFF)
    data[start:start + length] = part


@pytest.mark.parametrize("rule", FOOTER_RULES, ids=lambda rule: f"{rule[0]}-{rule[2]}")
def test_a_rule_of_the_footer_broken_is_told(tmp_path, rule):
    data = bytearray(bytes(VhdFile(fill=1)))
    for start in (0, len(data) - 512):
        changed(data, start, 512, 64, rule)
    (tmp_path / "x.vhd").write_bytes(data)
    assert rule[2] in refused(tmp_path / "x.vhd")


@pytest.mark.parametrize("rule", HEADER_RULES, ids=lambda rule: f"{rule[0]}-{rule[2]}")
def test_a_rule_of_the_header_broken_is_told(tmp_path, rule):
    data = bytearray(bytes(VhdFile(fill=1)))
    changed(data, 512, 1024, 36, rule)
    (tmp_path / "x.vhd").write_bytes(data)
    assert rule[2] in refused(tmp_path / "x.vhd")


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("-O", "vpc", "-o", "subformat=fixed"), "of type fixed"),
     (("-O", "qcow2"), "no VHD but qcow2"), (("-O", "vmdk"), "no VHD but vmdk"),
     (("-O", "vhdx"), "no VHD but vhdx"), (("-O", "raw"), "raw disk")],
)
def test_what_qemu_made_of_another_kind_is_told_with_what_to_do(
    tmp_path, options, reason
):
    raw, path = tmp_path / "x.raw", tmp_path / "x.vhd"
    raw.write_bytes(b"data" * 2**20)
    qemu_img("convert", "-f", "raw", *options, str(raw), str(path))
    assert reason in refused(path)
    assert "qemu-img convert -O vpc -o subformat=dynamic" in refused(path)
    # And that is right: it makes a disk that is taken.
    qemu_img("convert", "-O", "vpc", "-o", "subformat=dynamic", str(raw), str(path))
    assert vhd.check(str(path), "x").kind == vhd.DYNAMIC


def qemu_img(*argv):
    if shutil.which("qemu-img") is None:
        assert os.environ.get("REQUIRE_ROOT_PARTS") != "1", "NO qemu-img HERE"
        pytest.skip("NO qemu-img HERE")
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True)


def test_the_geometry_is_that_of_the_specification():
    dice = random.Random(20261122)
    sizes = [64 * 2**20, 128 * 2**20, 2**30, 127 * 2**30, 128 * 2**30, 2040 * 2**30]
    sizes += [dice.randrange(1, 2040 * 2**21) * 512 for _ in range(2000)]
    for size in sizes:
        cylinders, heads, sectors = another_writer.geometry(size)
        assert vhd.geometry(size) == cylinders << 16 | heads << 8 | sectors


@pytest.mark.parametrize("mib", [64, 1024, 100 * 1024])
def test_a_disk_of_exact_size_gets_the_geometry_that_hosts_accept(tmp_path, mib):
    path = tmp_path / "x.vhd"
    options = "subformat=dynamic,force_size=on"
    qemu_img("create", "-f", "vpc", "-o", options, str(path), f"{mib}M")
    made = vhd.check(str(path), "x")
    assert made.geometry > vhd.geometry(made.virtual_size)
    vhd.fit_geometry(made)
    now = vhd.check(str(path), "x")
    cylinders, heads, sectors = another_writer.geometry(mib * 2**20)
    assert now == made._replace(geometry=cylinders << 16 | heads << 8 | sectors)
    said = subprocess.check_output(["qemu-img", "info", "-f", "vpc", str(path)])
    assert f"({mib * 2**20} bytes)" in said.decode()


@pytest.mark.parametrize(
    ("name", "parents"),
    [("base", []), ("leaf", ["mid.vhd"]), ("mid", ["base.vhd"]),
     ("on-raw", ["rawparent.raw"])],
)
def test_the_parent_is_read_as_the_hosts_tool_reads_it(disk, name, parents):
    assert vhd.parent_names(disk(name)) == parents


def test_locators_of_other_tools_are_read(tmp_path):
    child = VhdFile(parent=VhdFile(), parent_name="header name.vhd")
    data = bytearray(bytes(child))
    texts = [
        b"file:///run/sr-mount/x/abs%20olute.vhd",
        "C:\\disks\\windows.vhd".encode("utf-16-le"),
        b"\xff\xfe\xff",  # no text
    ]
    for number, text in enumerate(texts):
        at = 512 + 576 + 24 * number
        data[at + 8:at + 12] = struct.pack(">I", len(text))
        (offset,) = struct.unpack_from(">Q", data, at + 16)
        data[offset:offset + len(text)] = text
    changed(data, 512, 1024, 36, (900, b"", ""))
    (tmp_path / "x.vhd").write_bytes(data)
    assert vhd.parent_names(vhd.check(str(tmp_path / "x.vhd"), "x")) == [
        "/run/sr-mount/x/abs olute.vhd", "C:/disks/windows.vhd", "header name.vhd"
    ]


class TestMending:
    """What a crash of a host leaves, and what is damage."""

    @pytest.fixture
    def crashed(self, tmp_path):
        """Return a function that writes a golden disk after a change of its bytes."""

        def write(change, name="base"):
            data = bytearray(golden.read(name))
            path = tmp_path / "crashed.vhd"
            path.write_bytes(change(data) or data)
            return path

        return write

    @pytest.mark.parametrize("tail", [0, 512, 4096, 2 * 1024 * 1024 + 512 + 700])
    def test_a_file_that_grew_gets_its_footer_behind_the_last_block(
        self, crashed, tail
    ):
        """The host writes a new block over the footer before it moves that on."""
        path = crashed(lambda data: data[:-512] + b"\x55" * tail)
        assert "crashed" in refused(path)
        assert vhd.mend(str(path))
        assert path.read_bytes() == golden.read("base")

    def test_of_two_good_footers_the_one_at_the_end_counts(self, crashed):
        """A call that was killed between the two writes of a changed footer."""
        path = crashed(lambda data: None, "hidden")
        good = path.read_bytes()
        data = bytearray(good)
        data[85] = 0
        stored = int.from_bytes(data[64:68], "big")
        data[64:68] = (stored + 1).to_bytes(4, "big")
        path.write_bytes(data)
        assert "differ" in refused(path)
        assert vhd.mend(str(path))
        assert path.read_bytes() == good

    @pytest.mark.parametrize("name", ["bad-footer-checksum", "bad-bat"])
    def test_damage_is_left_as_it_is(self, crashed, name):
        path = crashed(lambda data: None, name)
        assert not vhd.mend(str(path))
        assert path.read_bytes() == golden.read(name)

    def test_a_file_cut_in_a_block_is_left_as_it_is(self, crashed):
        path = crashed(lambda data: data[:-1024 * 1024])
        assert not vhd.mend(str(path))
        refused(path)

    def test_what_is_whole_is_not_written(self, crashed):
        path = crashed(lambda data: None)
        os.utime(path, (1, 1))
        assert not vhd.mend(str(path))
        assert path.stat().st_mtime == 1

    def test_another_reader_reads_the_mended_disk(self, crashed):
        path = crashed(lambda data: data[:-512] + b"\x55" * 700)
        vhd.mend(str(path))
        chain_reader.assert_reads_as(path, golden.CONTENT["base"])


SMALL = bytes(VhdFile(parent=VhdFile()))  # a differencing disk without a block
AREAS = {  # start, length, where its checksum is
    "copy": (0, 512, 64), "footer": (len(SMALL) - 512, 512, 64),
    "header": (512, 1024, 36),
}
NUMBERS = st.sampled_from(
    [0, 1, 511, 512, 2**31, 2**32 - 1, 2**62, 2**63 - 512, 2**63, 2**64 - 512]
) | st.integers(0, 2**64 - 1)
# Where the numbers of footers and headers are.
FIELDS = [8, 12, 16, 24, 28, 32, 48, 56, 60, 84, 576, 580, 584, 588, 592, 600, 608, 616]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["both", *AREAS]),
        st.sampled_from(FIELDS) | st.integers(0, 1023),
        st.tuples(NUMBERS, st.sampled_from([1, 4, 8])) | st.binary(max_size=24),
    ),
    max_size=4,
)


def distorted(changes, cut):
    """Return a disk with changed bytes whose checksums are right again."""
    data = bytearray(SMALL)
    for area, at, value in changes:
        if isinstance(value, tuple):
            number, size = value
            value = (number % 2**(8 * size)).to_bytes(size, "big")
        for name in ("copy", "footer") if area == "both" else (area,):
            start, length, checksum_at = AREAS[name]
            changed(data, start, length, checksum_at, (at % length, value, ""))
            del data[len(SMALL):]
    return bytes(data[:len(data) - cut])


@settings(deadline=None, max_examples=250)
@given(CHANGES, st.sampled_from([0, 0, 0, 1, 512, 513, 2000, len(SMALL)]))
def test_no_distorted_disk_does_more_than_refuse(tmp_path_factory, changes, cut):
    """Whatever it says of itself: a Vhd or IMAGE_CORRUPT, in no time."""
    path = tmp_path_factory.getbasetemp() / "distorted.vhd"
    path.write_bytes(distorted(changes, cut))
    for look in (vhd.peek, lambda name: vhd.check(name, "x")):
        try:
            found = look(str(path))
            assert all(isinstance(name, str) for name in vhd.parent_names(found))
        except failures.Failure as exc:
            assert exc.code == failures.IMAGE_CORRUPT
            continue
        parent = found._replace(path=str(path.with_name("parent of it.vhd")))
        Path(parent.path).write_bytes(b"")
        try:
            vhd.set_parent(found, parent)
            vhd.hide(found)
            vhd.fit_geometry(found)
        except failures.Failure as exc:
            assert exc.code == failures.IMAGE_CORRUPT
        assert path.stat().st_size == len(SMALL) - cut
    vhd.mend(str(path))
