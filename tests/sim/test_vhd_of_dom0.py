# SPDX-License-Identifier: Apache-2.0
"""Disks that a real dom0's tool made, in the simulator's VHD reader and writer."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
import unittest
from pathlib import Path

from tests.sim import vhd_judges
from xenapi_driver.sim.storage import vhd
from xenapi_driver.sim.storage.vhd_chain import Chain

DATA = Path(__file__).parent.parent / "data" / "vhd"
MIB = 1 << 20
# SHA-256 of the 64 MiB that libvhdi reads through the chain.
BASE = "c853256e3905b04cc59efc3e59dce344f6a7cd6b1cd23fc094a41d1cd7f367a6"
MID = "da59b952bfda6db2641642286e20a19f6afcbc2e9ed3a338259d984dffb883e1"
LEAF = "963ebd85636c8bb63f0a63ae2865eb8aafc87df63718563ba65d96b6fdee3f67"


class RealDisksTest(unittest.TestCase):
    def setUp(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sim-vhd-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def unpacked(self, *names: str) -> list[Path]:
        for name in names:
            packed = (DATA / f"{name}.vhd.gz").read_bytes()
            (self.dir / f"{name}.vhd").write_bytes(gzip.decompress(packed))
        return [self.dir / f"{name}.vhd" for name in names]

    def digest(self, path: Path) -> str:
        with Chain(path) as chain:
            return hashlib.sha256(chain.read(0, 64 * MIB)).hexdigest()

    def test_content_through_the_chain(self) -> None:
        base, mid, leaf = self.unpacked("base", "mid", "leaf")
        self.assertEqual(BASE, self.digest(base))
        self.assertEqual(MID, self.digest(mid))
        self.assertEqual(LEAF, self.digest(leaf))

    def test_size_and_hidden_mark(self) -> None:
        (hidden, resized) = self.unpacked("hidden", "base-resized-128m")
        with vhd.VhdFile(hidden) as disk:
            self.assertTrue(disk.footer.hidden)
        with Chain(resized) as chain:
            self.assertEqual(128 * MIB, chain.virtual_size)
        self.assertEqual(BASE, self.digest(resized))

    def test_broken_disks_are_refused(self) -> None:
        for path in self.unpacked("bad-footer-checksum", "bad-bat", "on-raw"):
            with self.subTest(path.name), self.assertRaises(vhd.BadVhd):
                Chain(path)

    def test_footer_and_header_are_packed_as_the_tool_does(self) -> None:
        (path,) = self.unpacked("hidden")
        raw = path.read_bytes()
        self.assertEqual(raw[:512], vhd.Footer.unpack(raw[:512]).pack())

    def test_empty_disk_of_ours_is_laid_out_alike(self) -> None:
        (theirs,) = self.unpacked("hidden")
        ours = self.dir / "ours.vhd"
        vhd.create(ours, 64 * MIB, hidden=True)
        self.assertEqual(theirs.read_bytes()[512:-512], ours.read_bytes()[512:-512])

    def test_growing_and_writing_a_link(self) -> None:
        links = self.unpacked("base", "mid", "leaf")
        with vhd.VhdFile(links[2], writable=True) as disk:
            disk.grow(3000 * MIB)
        self.assertEqual(LEAF, self.digest(links[2]))
        with Chain(links[2], writable=True) as chain:
            chain.write(64 * MIB - 3, b"border")
        with Chain(links[2]) as chain:
            self.assertEqual(b"border\0", chain.read(64 * MIB - 3, 7))
        self.assertIn("mid.vhd", vhd_judges.libvhdi_info(links[2]))

    def test_writing_and_hiding_keeps_them_readable_for_others(self) -> None:
        base, mid, leaf = self.unpacked("base", "mid", "leaf")
        with Chain(leaf, writable=True) as chain:
            chain.write(33 * MIB + 5, b"more" * 5000)
        with vhd.VhdFile(mid, writable=True) as disk:
            disk.hide()
        self.assertEqual(self.digest(leaf), vhd_judges.libvhdi_digest(leaf, mid, base))
