# SPDX-License-Identifier: Apache-2.0
"""The image is what Glance and XenServer expect, and can be read back."""

import shutil
import subprocess
import tarfile

import pytest

from demo import image
from demo.failure import DemoFailure
from xenapi_driver.sim.storage import vhd

TOOLS = ("mke2fs", "debugfs", "qemu-img")


def missing():
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    reader = ["/usr/bin/python3", "-c", "import pyvhdi"]
    try:
        done = subprocess.run(reader, capture_output=True, check=False)
        found = done.returncode == 0
    except FileNotFoundError:
        found = False
    return absent + ([] if found else ["python3-libvhdi"])


pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"missing: {', '.join(missing())} (demo/packages.txt)"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return image.make(tmp_path_factory.mktemp("image"))


def test_image_is_a_tar_with_one_vhd(made):
    with tarfile.open(made.path, "r:gz") as archive:
        assert archive.getnames() == ["0.vhd"]
        member = archive.extractfile("0.vhd")
        assert member.read(8) == b"conectix"  # VHD spec 1.0, a footer's cookie


def test_no_two_images_are_alike(made, tmp_path):
    assert image.make(tmp_path).content != made.content


def test_known_content_is_read_back(made, tmp_path):
    disk = made.path.with_name("0.vhd")
    assert image.read_back(disk, tmp_path) == made.content
    assert list(tmp_path.iterdir()) == []


def test_broken_disk_is_refused_in_words(made, tmp_path):
    broken = tmp_path / "broken.vhd"
    broken.write_bytes(made.path.with_name("0.vhd").read_bytes()[:100])
    with pytest.raises(DemoFailure):
        image.read_back(broken, tmp_path / "read")


def test_what_a_disk_has_beyond_its_parents_is_read(tmp_path):
    mib = 1 << 20
    base, middle, leaf = (tmp_path / f"{name}.vhd" for name in ("c", "b", "a"))
    for path, parent, size in ((base, None, 4), (middle, base, 8), (leaf, middle, 16)):
        first = vhd.VhdFile(parent).footer.size if parent else 4 * mib
        vhd.create(path, first, parent)
        with vhd.VhdFile(path, writable=True) as disk:
            disk.grow(size * mib)
            # The last block of each, and the first one of the base.
            disk.write_sectors(size // 2 - 1, 0, path.name[:1].encode() * 512)
            if not parent:
                disk.write_sectors(0, 0, b"0" * 512)
    raw = tmp_path / "raw"
    image.run(["/usr/bin/python3", str(image.READER), str(leaf), str(raw)])
    content = raw.read_bytes()
    assert len(content) == 16 * mib
    found = {at: content[at : at + 1] for at in range(0, 16 * mib, 2 * mib)}
    wanted = {0: b"0", 2 * mib: b"c", 6 * mib: b"b", 14 * mib: b"a"}
    assert {at: byte for at, byte in found.items() if byte != b"\0"} == wanted
    assert content.count(0) == len(content) - 4 * 512
