# SPDX-License-Identifier: Apache-2.0
"""The image is what Glance and XenServer expect, and can be read back."""

import shutil
import subprocess
import tarfile

import pytest

from demo import image
from demo.failure import DemoFailure

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
