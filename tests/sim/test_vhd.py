# SPDX-License-Identifier: Apache-2.0
"""The simulator's VHD reader and writer, judged by readers that we did not write."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import unittest
from pathlib import Path

from tests.sim import vhd_judges
from xenapi_driver.sim.storage import vhd
from xenapi_driver.sim.storage.vhd_chain import Chain

MIB = 1 << 20
GIB = 1 << 30


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class VhdTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sim-vhd-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.random = random.Random(7)

    def made(self, name: str, size: int, parent: Path | None = None) -> Path:
        path = self.dir / name
        vhd.create(path, size, parent)
        return path

    def write(self, path: Path, offset: int, data: bytes) -> None:
        with Chain(path, writable=True) as chain:
            chain.write(offset, data)

    def content(self, path: Path) -> bytes:
        with Chain(path) as chain:
            return chain.read(0, chain.virtual_size)

    def scribble(self, path: Path, model: bytearray, count: int) -> None:
        """Write at random places into a disk and into what it should read as."""
        with Chain(path, writable=True) as chain:
            for _ in range(count):
                data = self.random.randbytes(self.random.choice([1, 511, 4096, 70000]))
                offset = self.random.randrange(len(model) - len(data))
                chain.write(offset, data)
                model[offset : offset + len(data)] = data


class FooterTest(VhdTestCase):
    def test_geometry_of_known_disk(self) -> None:
        # What dom0's own tool writes for 64 MiB.
        self.assertEqual((963, 8, 17), vhd.geometry(64 * MIB))

    def test_geometry_never_exceeds_the_disk(self) -> None:
        for size in (2 * MIB, 64 * MIB, GIB, 127 * GIB, 500 * GIB):
            cylinders, heads, sectors = vhd.geometry(size)
            self.assertLessEqual(cylinders * heads * sectors * 512, size)
            self.assertLessEqual(cylinders, 65535)

    def test_impossible_sizes_are_refused(self) -> None:
        for size in (0, -512, vhd.MAX_VIRTUAL_SIZE + 512):
            with self.assertRaises(vhd.BadVhd):
                self.made("a.vhd", size)
            self.assertFalse((self.dir / "a.vhd").exists())


class DynamicDiskTest(VhdTestCase):
    def test_empty_disk_reads_as_zeros(self) -> None:
        path = self.made("a.vhd", 8 * MIB)
        self.assertEqual(bytes(8 * MIB), self.content(path))
        self.assertEqual(8 * MIB, vhd_judges.qemu_size(path))

    def test_content_as_qemu_and_libvhdi_see_it(self) -> None:
        path, model = self.made("a.vhd", 16 * MIB), bytearray(16 * MIB)
        self.scribble(path, model, 20)
        self.assertEqual(digest(model), digest(self.content(path)))
        seen = vhd_judges.qemu_content(path, self.dir / "raw")
        self.assertEqual(digest(model), digest(seen))
        self.assertEqual(digest(model), vhd_judges.libvhdi_digest(path))

    def test_largest_disk(self) -> None:
        path = self.made("a.vhd", vhd.MAX_VIRTUAL_SIZE)
        self.write(path, vhd.MAX_VIRTUAL_SIZE - 3, b"end")
        with Chain(path) as chain:
            self.assertEqual(b"\0end", chain.read(vhd.MAX_VIRTUAL_SIZE - 4, 4))
        self.assertEqual(vhd.MAX_VIRTUAL_SIZE, vhd_judges.qemu_size(path))

    def test_data_of_a_block_begins_on_a_page(self) -> None:
        path = self.made("a.vhd", 8 * MIB)
        self.write(path, 5 * MIB, b"x")
        with vhd.VhdFile(path) as disk:
            self.assertEqual([2], disk.blocks)
            self.assertEqual(0, (disk.bat[2] * 512 + 512) % 4096)

    def test_reads_and_writes_outside_are_refused(self) -> None:
        path = self.made("a.vhd", 2 * MIB)
        with Chain(path, writable=True) as chain:
            for offset, length in ((2 * MIB, 1), (-1, 1), (0, 2 * MIB + 1)):
                with self.assertRaises(vhd.BadVhd):
                    chain.read(offset, length)
            with self.assertRaises(vhd.BadVhd):
                chain.write(2 * MIB - 1, b"xx")

    def test_disk_that_qemu_made(self) -> None:
        raw, path = self.dir / "raw", self.dir / "a.vhd"
        data = self.random.randbytes(5 * MIB)
        raw.write_bytes(data)
        for kind in ("dynamic", "fixed"):
            options = f"subformat={kind},force_size=on"
            vhd_judges.convert_by_qemu(raw, path, options)
            with self.subTest(kind):
                self.assertEqual(digest(data), digest(self.content(path)))


class DifferencingDiskTest(VhdTestCase):
    def test_chain_as_libvhdi_sees_it(self) -> None:
        model = bytearray(12 * MIB)
        links: list[Path] = []
        for name in ("base.vhd", "mid.vhd", "leaf.vhd"):
            links.insert(0, self.made(name, 12 * MIB, links[0] if links else None))
            self.scribble(links[0], model, 12)
            self.assertEqual(digest(model), digest(self.content(links[0])))
            self.assertEqual(digest(model), vhd_judges.libvhdi_digest(*links))

    def test_parent_is_named_relative_in_all_forms(self) -> None:
        base = self.made("base.vhd", 4 * MIB)
        leaf = self.made("leaf.vhd", 4 * MIB, base)
        raw = leaf.read_bytes()
        self.assertIn(b"file://./base.vhd\0", raw)
        self.assertEqual(2, raw.count("./base.vhd".encode("utf-16-le")))
        self.assertIn("base.vhd", vhd_judges.libvhdi_info(leaf))
        with vhd.VhdFile(leaf) as disk:
            self.assertEqual(base, disk.parent_path)

    def test_writes_stay_out_of_the_parent(self) -> None:
        base = self.made("base.vhd", 4 * MIB)
        self.write(base, 100, b"old")
        before = base.read_bytes()
        leaf = self.made("leaf.vhd", 4 * MIB, base)
        self.write(leaf, 101, b"new")
        self.assertEqual(before, base.read_bytes())
        with Chain(leaf) as chain:
            self.assertEqual(b"\0onew\0", chain.read(99, 6))

    def test_leaf_larger_than_its_parent_ends_in_zeros(self) -> None:
        base = self.made("base.vhd", 2 * MIB)
        self.write(base, 0, b"x" * 2 * MIB)
        leaf = self.made("leaf.vhd", 6 * MIB, base)
        self.assertEqual(b"x" * 2 * MIB + bytes(4 * MIB), self.content(leaf))

    def test_missing_or_other_parent_is_refused(self) -> None:
        base = self.made("base.vhd", 4 * MIB)
        leaf = self.made("leaf.vhd", 4 * MIB, base)
        base.unlink()
        with self.assertRaisesRegex(vhd.BadVhd, "base.vhd is missing"):
            Chain(leaf)
        self.made("base.vhd", 4 * MIB)
        with self.assertRaisesRegex(vhd.BadVhd, "not the parent"):
            Chain(leaf)

    def test_parent_in_another_directory_is_refused(self) -> None:
        base = self.made("base.vhd", 4 * MIB)
        leaf = self.made("leaf.vhd", 4 * MIB, base)
        raw = leaf.read_bytes()
        for old, new in (("./base.vhd", "../ase.vhd"),):
            raw = raw.replace(old.encode(), new.encode())
            raw = raw.replace(old.encode("utf-16-le"), new.encode("utf-16-le"))
        leaf.write_bytes(raw)
        with self.assertRaisesRegex(vhd.BadVhd, "another directory"):
            Chain(leaf)


class GrowTest(VhdTestCase):
    def grow(self, path: Path, size: int) -> None:
        with vhd.VhdFile(path, writable=True) as disk:
            disk.grow(size)

    def test_content_stays_and_the_rest_is_zeros(self) -> None:
        path, model = self.made("a.vhd", 8 * MIB), bytearray(8 * MIB)
        self.scribble(path, model, 10)
        # Far enough that the first blocks have to make room for the table.
        self.grow(path, 20 * GIB)
        with Chain(path, writable=True) as chain:
            self.assertEqual(20 * GIB, chain.virtual_size)
            self.assertEqual(digest(model), digest(chain.read(0, 8 * MIB)))
            self.assertEqual(bytes(MIB), chain.read(20 * GIB - MIB, MIB))
            chain.write(20 * GIB - 4, b"last")
        self.grow(path, 20 * GIB)
        with Chain(path) as chain:
            self.assertEqual(b"last", chain.read(20 * GIB - 4, 4))
        self.assertEqual(20 * GIB, vhd_judges.qemu_size(path))

    def test_grown_disk_as_others_see_it(self) -> None:
        path, model = self.made("a.vhd", 4 * MIB), bytearray(4 * MIB)
        self.scribble(path, model, 10)
        self.grow(path, 300 * MIB)
        # libvhdi goes by the original size, which growing leaves as it was.
        self.assertEqual(digest(model), vhd_judges.libvhdi_digest(path))
        model += bytes(296 * MIB)
        seen = vhd_judges.qemu_content(path, self.dir / "raw")
        self.assertEqual(digest(model), digest(seen))

    def test_table_larger_than_the_whole_file_was(self) -> None:
        path = self.made("a.vhd", 2 * MIB)
        self.write(path, 0, b"first")
        self.grow(path, vhd.MAX_VIRTUAL_SIZE)
        with Chain(path) as chain:
            self.assertEqual(b"first\0", chain.read(0, 6))
        self.assertEqual(vhd.MAX_VIRTUAL_SIZE, vhd_judges.qemu_size(path))

    def test_differencing_disk_keeps_its_parent(self) -> None:
        base = self.made("base.vhd", 4 * MIB)
        self.write(base, 7, b"base")
        leaf = self.made("leaf.vhd", 4 * MIB, base)
        self.write(leaf, 3 * MIB, b"leaf")
        self.grow(leaf, 600 * MIB)
        with Chain(leaf) as chain:
            self.assertEqual([leaf, base], [link.path for link in chain.links])
            self.assertEqual(b"base", chain.read(7, 4))
            self.assertEqual(b"leaf", chain.read(3 * MIB, 4))
        self.assertIn("base.vhd", vhd_judges.libvhdi_info(leaf))

    def test_shrinking_is_refused(self) -> None:
        path = self.made("a.vhd", 4 * MIB)
        before = path.read_bytes()
        with self.assertRaises(vhd.BadVhd):
            self.grow(path, 2 * MIB)
        self.assertEqual(before, path.read_bytes())


class HideTest(VhdTestCase):
    def test_hidden_disk_says_so_in_both_footers(self) -> None:
        path = self.made("a.vhd", 4 * MIB)
        with vhd.VhdFile(path, writable=True) as disk:
            disk.hide()
        raw = path.read_bytes()
        self.assertEqual(1, raw[85])  # where dom0's own tool has it
        self.assertEqual(raw[:512], raw[-512:])
        with vhd.VhdFile(path) as disk:
            self.assertTrue(disk.footer.hidden)
        self.assertEqual(4 * MIB, vhd_judges.qemu_size(path))


class BrokenFileTest(VhdTestCase):
    def assert_refused(self, path: Path, offset: int, data: bytes) -> None:
        broken = bytearray(path.read_bytes())
        at = offset if offset >= 0 else len(broken) + offset
        broken[at : at + len(data)] = data
        bad = self.dir / "bad.vhd"
        bad.write_bytes(broken)
        with self.assertRaises(vhd.BadVhd):
            vhd.VhdFile(bad)

    def test_damage_is_seen(self) -> None:
        path = self.made("a.vhd", 8 * MIB)
        self.write(path, 0, b"x")
        self.write(path, 4 * MIB, b"y")
        table = 512 + 1024
        with vhd.VhdFile(path) as disk:
            first = disk.bat[0]
        for name, offset, data in (
            ("footer", -500, b"\xff"),
            ("copy of the footer", 40, b"\x01"),
            ("header", 512 + 30, b"\x01"),
            ("block in the metadata", table, bytes(4)),
            ("block outside", table, b"\x7f\xff\xff\xff"),
            ("blocks overlap", table + 4, (first + 1).to_bytes(4, "big")),
        ):
            with self.subTest(name):
                self.assert_refused(path, offset, data)

    def test_cut_and_empty_files(self) -> None:
        path = self.made("a.vhd", 8 * MIB)
        self.write(path, 0, b"x")
        for size in (0, 100, 512, path.stat().st_size // 2):
            os.truncate(path, size)
            with self.subTest(size), self.assertRaises(vhd.BadVhd):
                vhd.VhdFile(path)
