# SPDX-License-Identifier: Apache-2.0
"""A simulated SR: what clones, copies and removals leave in its directory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import unittest
import uuid
from pathlib import Path

from tests.sim import vhd_judges
from xenapi_driver.sim.storage import coalesce, vhd, vhd_store
from xenapi_driver.sim.storage.vhd_chain import MAX_CHAIN

MIB = 1 << 20
GIB = 1 << 30


class StorageTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sim-sr-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.sr = vhd_store.SrStore(self.dir / "sr", GIB)

    def made(self, data: bytes = b"", size: int = 8 * MIB) -> str:
        name = str(uuid.uuid4())
        self.sr.create(name, size)
        if data:
            self.sr.write(name, 3 * MIB, data)
        return name

    def cloned(self, source: str) -> tuple[str, str]:
        """Clone and return the uuids of the new leaf and the new parent."""
        leaf, parent = str(uuid.uuid4()), str(uuid.uuid4())
        self.sr.clone(source, leaf, parent)
        return leaf, parent

    def content(self, name: str, length: int = 5) -> bytes:
        return self.sr.read(name, 3 * MIB, length)

    def files(self) -> set[str]:
        return {file.name.removesuffix(".vhd") for file in self.sr.path.iterdir()}


class CreateTest(StorageTestCase):
    def test_scan_tells_what_a_new_disk_is(self) -> None:
        name = self.made(size=3 * MIB)
        info = self.sr.scan()[name]
        self.assertEqual(4 * MIB, info.virtual_size)  # whole blocks
        self.assertEqual(self.sr.path_of(name).stat().st_size, info.physical_bytes)
        self.assertEqual((name, None, False), (info.uuid, info.parent, info.hidden))

    def test_uuid_that_is_taken(self) -> None:
        name = self.made(b"mine")
        with self.assertRaises(vhd_store.Broken):
            self.sr.create(name, MIB)
        self.assertEqual(b"mine\0", self.content(name))

    def test_impossible_sizes(self) -> None:
        for size in (0, -1, 2041 * GIB):
            with self.subTest(size), self.assertRaises(vhd_store.BadSize):
                self.made(size=size)

    def test_names_that_are_no_uuid(self) -> None:
        for name in ("../x", "", "ABC", str(uuid.uuid4()).upper()):
            with self.subTest(name), self.assertRaises(vhd_store.Missing):
                self.sr.create(name, MIB)


class CloneTest(StorageTestCase):
    def test_two_leaves_stand_on_a_hidden_parent(self) -> None:
        source = self.made(b"data")
        leaf, parent = self.cloned(source)
        found = self.sr.scan()
        self.assertEqual({source, leaf, parent}, set(found))
        self.assertEqual((parent, False), (found[source].parent, found[source].hidden))
        self.assertEqual((parent, False), (found[leaf].parent, found[leaf].hidden))
        self.assertEqual((None, True), (found[parent].parent, found[parent].hidden))
        self.assertEqual(0o444, self.sr.path_of(parent).stat().st_mode & 0o777)

    def test_leaves_are_independent(self) -> None:
        source = self.made(b"data")
        leaf, parent = self.cloned(source)
        self.sr.write(leaf, 3 * MIB, b"LEAF")
        self.sr.write(source, 3 * MIB + 1, b"X")
        self.assertEqual(b"LEAF\0", self.content(leaf))
        self.assertEqual(b"dXta\0", self.content(source))
        self.assertEqual(b"data\0", self.content(parent))

    def test_chain_as_libvhdi_sees_it(self) -> None:
        source = self.made(b"one")
        _leaf, base = self.cloned(source)
        self.sr.write(source, 5 * MIB, b"two" * 3000)
        leaf, middle = self.cloned(source)
        self.sr.write(leaf, 3 * MIB + 1, b"three")
        paths = [self.sr.path_of(name) for name in (leaf, middle, base)]
        expected = hashlib.sha256(self.sr.read(leaf, 0, 8 * MIB)).hexdigest()
        self.assertEqual(expected, vhd_judges.libvhdi_digest(*paths))

    def test_clones_of_an_unchanged_clone_do_not_grow_the_chain(self) -> None:
        source = self.made(b"data")
        first, base = self.cloned(source)
        for _ in range(MAX_CHAIN + 5):
            leaf, unused = self.cloned(first)
            self.assertEqual(base, self.sr.scan()[leaf].parent)
            self.assertNotIn(unused, self.files())
            self.assertEqual(b"data\0", self.content(leaf))

    def test_chain_may_not_become_too_long(self) -> None:
        source = self.made(b"0")
        for _ in range(MAX_CHAIN - 1):
            self.cloned(source)
            self.sr.write(source, 0, b"x")
        before = self.files()
        with self.assertRaises(vhd_store.ChainTooLong):
            self.cloned(source)
        self.assertEqual(before, self.files())
        self.assertEqual(b"x", self.sr.read(source, 0, 1))

    def test_base_copies_are_neither_cloned_nor_written(self) -> None:
        _leaf, base = self.cloned(self.made(b"data"))
        with self.assertRaises(vhd_store.Broken):
            self.cloned(base)
        with self.assertRaises(vhd_store.Broken):
            self.sr.write(base, 0, b"x")


class CopyTest(StorageTestCase):
    def test_copy_is_flat_and_whole(self) -> None:
        source = self.made(b"data")
        leaf, _parent = self.cloned(source)
        self.sr.write(leaf, 0, b"head")
        new = str(uuid.uuid4())
        self.sr.copy(leaf, new)
        self.assertIsNone(self.sr.scan()[new].parent)
        self.assertEqual(self.sr.read(leaf, 0, 8 * MIB), self.sr.read(new, 0, 8 * MIB))
        seen = vhd_judges.qemu_content(self.sr.path_of(new), self.dir / "raw")
        self.assertEqual(self.sr.read(new, 0, 8 * MIB), seen)

    def test_copy_into_another_sr(self) -> None:
        other = vhd_store.SrStore(self.dir / "other", GIB)
        source, new = self.made(b"data"), str(uuid.uuid4())
        self.sr.copy(source, new, other)
        self.assertEqual({source}, self.files())
        self.assertEqual(b"data", other.read(new, 3 * MIB, 4))

    def test_full_destination_is_left_as_it_was(self) -> None:
        other = vhd_store.SrStore(self.dir / "other", MIB)
        with self.assertRaises(vhd_store.NoSpace):
            self.sr.copy(self.made(b"data"), str(uuid.uuid4()), other)
        self.assertEqual([], list(other.path.iterdir()))


class ResizeTest(StorageTestCase):
    def test_grown_leaf_keeps_content_and_parent(self) -> None:
        leaf, parent = self.cloned(self.made(b"data"))
        self.sr.resize(leaf, GIB)
        info = self.sr.scan()[leaf]
        self.assertEqual((GIB, parent), (info.virtual_size, info.parent))
        self.assertEqual(b"data\0", self.content(leaf))
        self.sr.write(leaf, GIB - 1, b"x")

    def test_shrinking_is_refused(self) -> None:
        name = self.made(size=8 * MIB)
        with self.assertRaises(vhd_store.BadSize):
            self.sr.resize(name, 4 * MIB)
        self.sr.resize(name, 8 * MIB)
        self.assertEqual(8 * MIB, self.sr.scan()[name].virtual_size)


class DestroyTest(StorageTestCase):
    def test_parents_are_left_to_the_collector(self) -> None:
        source = self.made(b"data")
        leaf, base = self.cloned(source)
        self.sr.destroy(leaf)
        self.assertEqual(b"data\0", self.content(source))
        self.sr.destroy(source)
        self.assertEqual({base}, self.files())

    def test_visible_parents_stay(self) -> None:
        base, leaf = self.made(b"data"), str(uuid.uuid4())
        vhd.create(self.sr.path_of(leaf), 8 * MIB, self.sr.path_of(base))
        self.sr.destroy(leaf)
        self.assertEqual({base}, self.files())

    def test_disk_in_use_by_others_stays(self) -> None:
        _leaf, base = self.cloned(self.made(b"data"))
        with self.assertRaises(vhd_store.Broken):
            self.sr.destroy(base)
        self.assertIn(base, self.files())

    def test_broken_disk_can_be_removed(self) -> None:
        good, bad = self.made(), str(uuid.uuid4())
        self.sr.path_of(bad).write_bytes(b"rubbish")
        self.sr.destroy(bad)
        self.assertEqual({good}, self.files())

    def test_what_is_not_there(self) -> None:
        gone = str(uuid.uuid4())
        for act in (
            lambda: self.sr.destroy(gone),
            lambda: self.sr.read(gone, 0, 1),
            lambda: self.sr.resize(gone, GIB),
            lambda: self.sr.copy(gone, str(uuid.uuid4())),
            lambda: self.cloned(gone),
        ):
            with self.assertRaises(vhd_store.Missing):
                act()


class ScanTest(StorageTestCase):
    def test_files_with_other_names_are_no_disks(self) -> None:
        name = self.made()
        (self.sr.path / "notes.vhd").write_text("no disk")
        (self.sr.path / f"{uuid.uuid4()}.iso").write_text("no VHD")
        (self.sr.path / "staging").mkdir()
        self.assertEqual({name}, set(self.sr.scan()))

    def test_chain_that_appeared_is_found(self) -> None:
        base, leaf = str(uuid.uuid4()), str(uuid.uuid4())
        vhd.create(self.sr.path_of(base), 4 * MIB)
        vhd.create(self.sr.path_of(leaf), 6 * MIB, self.sr.path_of(base))
        found = self.sr.scan()
        self.assertEqual(base, found[leaf].parent)
        self.assertEqual(6 * MIB, found[leaf].virtual_size)

    def test_broken_disk_fails_the_scan_and_is_named(self) -> None:
        self.made()
        bad = str(uuid.uuid4())
        self.sr.path_of(bad).write_bytes(b"rubbish" * 100)
        with self.assertRaisesRegex(vhd_store.Broken, bad):
            self.sr.scan()

    def test_missing_parent_fails_the_scan(self) -> None:
        leaf, parent = self.cloned(self.made(b"data"))
        self.sr.path_of(parent).unlink()
        with self.assertRaisesRegex(vhd_store.Broken, parent):
            self.sr.scan()


class SpaceTest(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.sr = vhd_store.SrStore(self.dir / "small", 5 * MIB)

    def test_disks_are_thin(self) -> None:
        self.made(size=500 * GIB)
        self.assertLess(self.sr.used_bytes(), 3 * MIB)

    def test_writes_beyond_the_size_are_refused(self) -> None:
        name = self.made(b"x")
        self.sr.write(name, 0, b"y")
        with self.assertRaises(vhd_store.NoSpace):
            self.sr.write(name, 7 * MIB, b"z")
        self.sr.write(name, 1, b"z")  # in a block that is there
        self.assertLessEqual(self.sr.used_bytes(), 5 * MIB)

    def test_files_of_others_count(self) -> None:
        (self.sr.path / "staging").mkdir()
        (self.sr.path / "staging/part").write_bytes(bytes(5 * MIB))
        for act in (self.made, lambda: self.sr.create(str(uuid.uuid4()), MIB)):
            with self.assertRaises(vhd_store.NoSpace):
                act()

    def test_clone_that_does_not_fit_changes_nothing(self) -> None:
        name = self.made(b"x")
        (self.sr.path / "filler").write_bytes(bytes(3 * MIB - 20000))
        self.sr.size_bytes = self.sr.used_bytes() + 1000
        before = self.files()
        with self.assertRaises(vhd_store.NoSpace):
            self.cloned(name)
        self.assertEqual(before, self.files())


class ThreadsTest(StorageTestCase):
    def test_many_clones_at_once(self) -> None:
        source = self.made(b"data")
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(5):
                    leaf, _parent = self.cloned(source)
                    self.sr.write(leaf, 0, b"mine")
                    self.sr.scan()
                    self.sr.destroy(leaf)
            except BaseException as error:  # seen by the main thread
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures)
        self.assertEqual(b"data\0", self.content(source))
        while step := coalesce.next_step(self.sr, lambda uuid: False):
            self.assertTrue(coalesce.carry_out(self.sr, step, lambda uuid: False))
        self.assertEqual({source}, self.files())
        self.assertEqual(b"data\0", self.content(source))
