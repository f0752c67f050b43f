# SPDX-License-Identifier: Apache-2.0
"""The plugin ``partition_utils`` on disks of a host, read by other programs."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.dom0 import kernels
from tests.dom0.kernels import MIB
from tests.dom0.scratch_host import PluginFailed

DISK = 64 * MIB
START = 2048
LOOP_SET_FD, LOOP_CTL_GET_FREE = 0x4C00, 0x4C82  # linux/loop.h


@pytest.fixture(autouse=True)
def needs_loops():
    kernels.require_loops()


@pytest.fixture
def plugged(host):
    """Yield (host, name of a plugged disk's device); nothing may hold it afterwards."""
    yield from plug(host)


@pytest.fixture
def old_plugged(old_host):
    yield from plug(old_host)


def plug(host):
    vdi = kernels.disk(host, DISK)
    vbd, device = kernels.plug(host, vdi)
    yield host, "/dev/" + device
    # The kernel lets go of one a moment after its last user did.
    end = time.monotonic() + 10
    while loops(host, "/dev/" + device) and time.monotonic() < end:
        time.sleep(0.05)
    assert loops(host, "/dev/" + device) == [], "a loop device was left"
    kernels.unplug(host, vbd)
    assert kernels.loops_of(host) == []


def loops(host, device):
    """Return the loop devices that stand on a plugged disk's own."""
    told = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True)
    number = os.minor(os.stat(node(host, device)).st_rdev)
    below = f"(/dev/loop{number})"
    return [line for line in told.stdout.splitlines() if below in line]


def node(host, device):
    return str(host.root) + device


def call(host, fn, **request):
    return host.call("partition_utils", fn, request)


def refusal(host, fn, **request):
    with pytest.raises(PluginFailed) as caught:
        call(host, fn, **request)
    return caught.value


def partition(host, device, start=START):
    assert call(
        host, "make_partition", dev=device, partition_start=start, partition_end="-"
    ) is None


def table(host, device):
    """Return the partition table as sfdisk's own reader tells it."""
    told = subprocess.run(
        ["sfdisk", "--json", node(host, device)], capture_output=True, check=True
    )
    return json.loads(told.stdout)["partitiontable"]


def in_partition(host, device, tmp_path, start=START):
    """Return a file with what is in the partition, cut out by dd."""
    file = tmp_path / "partition"
    subprocess.run(
        ["dd", f"if={node(host, device)}", f"of={file}", "bs=512", f"skip={start}",
         "status=none"], check=True,
    )  # fmt: skip
    return file


def told(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_an_ephemeral_disk_is_partitioned_and_formatted(plugged, tmp_path):
    host, device = plugged
    assert call(host, "wait_for_dev", dev_path=device, max_seconds=5) == device
    partition(host, device)
    found = table(host, device)
    assert found["label"] == "dos"
    (one,) = found["partitions"]
    assert (one["start"], one["size"]) == (START, DISK // 512 - START)
    assert one["type"] == "83"

    request = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": "ephemeral1"}
    assert call(host, "mkfs", **request) is None
    file = in_partition(host, device, tmp_path)
    about = told("dumpe2fs", "-h", str(file))
    assert "has_journal" in about and "extent" not in about, "it is no ext3"
    assert "Filesystem volume name:   ephemeral1\n" in about
    lines = dict(line.split(":", 1) for line in about.splitlines() if ":" in line)
    size = int(lines["Block count"]) * int(lines["Block size"])
    assert size == DISK - START * 512
    subprocess.run(["e2fsck", "-fn", str(file)], check=True, capture_output=True)


def test_a_swap_disk_is_formatted_and_numbers_may_be_text(plugged, tmp_path):
    host, device = plugged
    partition(host, device, str(START))
    request = {"dev": device, "partnum": "1", "fs_type": "swap", "fs_label": "ignored"}
    assert call(host, "mkfs", **request) is None
    file = in_partition(host, device, tmp_path)
    about = told("blkid", "-p", "-o", "export", str(file))
    assert "TYPE=swap\n" in about
    assert "LABEL=" not in about


def test_what_is_made_is_in_the_vdi(old_host, tmp_path):
    host = old_host
    vdi = kernels.disk(host, DISK)
    vbd, name = kernels.plug(host, vdi)
    partition(host, "/dev/" + name)
    call(host, "mkfs", dev="/dev/" + name, partnum=1, fs_type="ext3", fs_label=None)
    kernels.unplug(host, vbd)
    sr = host.api.xenapi.SR.get_by_uuid(host.sr_uuid)
    store, uuid = host.sim.world.stores[sr], host.api.xenapi.VDI.get_uuid(vdi)
    file = tmp_path / "partition"
    file.write_bytes(store.read(uuid, START * 512, DISK - START * 512))
    subprocess.run(["e2fsck", "-fn", str(file)], check=True, capture_output=True)


def test_a_repeat_and_an_old_gpt_give_the_same_table(old_plugged):
    host, device = old_plugged
    subprocess.run(
        ["sfdisk", "-q", "--label", "gpt", node(host, device)],
        input=b"4096,8192\n16384,\n", check=True,
    )  # fmt: skip
    for _attempt in range(2):
        partition(host, device)
        found = table(host, device)
        assert (found["label"], len(found["partitions"])) == ("dos", 1)
    disk = node(host, device)
    assert told("blkid", "-p", "-s", "PTTYPE", "-o", "value", disk) == "dos\n"


@pytest.mark.parametrize(
    ("version", "forced"),
    [("2.22.1", False), ("2.23.2", True), ("2.25", True), ("2.38.1", False)],
)
def test_sfdisk_is_forced_where_it_has_to_be(old_plugged, version, forced, tmp_path):
    host, device = old_plugged
    real = shutil.which("sfdisk")
    host.wrap("sfdisk", f"""#!/bin/sh
if [ "$1" = --version ]; then echo "sfdisk from util-linux {version}"; exit; fi
echo "$@" > {tmp_path}/argv
exec {real} "$@"
""")
    partition(host, device)
    argv = (tmp_path / "argv").read_text().split()
    assert ("--force" in argv) == forced
    assert ("--label" in argv) == (version == "2.38.1")
    assert len(table(host, device)["partitions"]) == 1


def test_a_device_that_does_not_come_is_told_by_an_empty_text(old_host):
    absent = f"/dev/sm/backend/{old_host.sr_uuid}/{old_host.sr_uuid}"
    assert call(old_host, "wait_for_dev", dev_path=absent, max_seconds=0) == ""
    began = time.monotonic()
    assert call(old_host, "wait_for_dev", dev_path="/dev/xvdb1", max_seconds=1) == ""
    assert time.monotonic() - began >= 1
    # A file of that name is no device.
    (old_host.root / "dev").mkdir(exist_ok=True)
    (old_host.root / "dev/xvdb").write_text("")
    assert call(old_host, "wait_for_dev", dev_path="/dev/xvdb", max_seconds=0) == ""


# what must not be touched

NAMES = [
    "/dev/sda", "/dev/sda1", "/dev/nvme0n1", "/dev/md0", "/dev/dm-0",
    "/dev/mapper/root", "/dev/loop0", "/dev/mem", "/dev/null", "/dev/../dev/sda",
    "/dev/xvda/../sda",
    "/dev/sm/backend/../../sda", "dev/xvda", "xvda", "", "/", "/dev/", "/dev/xvda\n",
    "/dev/xvda;reboot", "-c", 7, None, ["/dev/xvda"], "/dev/xvda\0", "/etc/passwd",
]  # fmt: skip


def test_no_name_of_another_device_is_taken(old_host):
    calls = itertools.cycle([
        ("mkfs", "dev", {"partnum": 1, "fs_type": "ext3", "fs_label": None}),
        ("make_partition", "dev", {"partition_start": START, "partition_end": "-"}),
        ("wait_for_dev", "dev_path", {"max_seconds": 0}),
    ])  # fmt: skip
    for name, (fn, argument, more) in zip(NAMES, calls, strict=False):
        failed = refusal(old_host, fn, **{argument: name}, **more)
        assert (failed.code, failed.params[0]) == ("BAD_ARGUMENT", argument), name


def test_a_device_that_no_vbd_of_dom0_has_is_refused(old_host, tmp_path):
    """A disk of this machine, by a name that a VBD can have."""
    host = old_host
    image = tmp_path / "root-disk"
    image.write_bytes(bytes(DISK))
    loop = told("losetup", "-f", "--show", str(image)).strip()
    try:
        (host.root / "dev").mkdir(exist_ok=True)
        (host.root / "dev/xvda").symlink_to(loop)
        for fn, more in (
            ("make_partition", {"partition_start": START, "partition_end": "-"}),
            ("mkfs", {"partnum": 1, "fs_type": "ext3", "fs_label": None}),
        ):
            failed = refusal(host, fn, dev="/dev/xvda", **more)
            assert failed.code == "NOT_PERMITTED"
        assert image.read_bytes() == bytes(DISK)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_a_read_only_or_unplugged_disk_is_refused(old_host):
    host = old_host
    vdi = kernels.disk(host, DISK)
    vbd, name = kernels.plug(host, vdi, mode="RO")
    request = {"dev": "/dev/" + name, "partition_start": START, "partition_end": "-"}
    assert refusal(host, "make_partition", **request).code == "NOT_PERMITTED"
    host.api.xenapi.VBD.unplug(vbd)
    assert refusal(host, "make_partition", **request).code == "NOT_PERMITTED"


@pytest.mark.parametrize("through", ["disk", "loop device"])
def test_a_mounted_disk_is_refused(old_plugged, tmp_path, through):
    host, device = old_plugged
    point = tmp_path / "mnt"
    point.mkdir()
    options = []
    if through == "disk":
        told("mkfs.ext4", "-F", "-q", node(host, device))
    else:
        partition(host, device)
        call(host, "mkfs", dev=device, partnum=1, fs_type="ext3", fs_label=None)
        options = ["-o", f"loop,offset={START * 512}"]
    argv = ["mount", *options, node(host, device), str(point)]
    if subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("NO RIGHT TO MOUNT here")
    try:
        (point / "file").write_text("stays")
        request = {"dev": device, "partition_start": START, "partition_end": "-"}
        assert refusal(host, "make_partition", **request).code == "NOT_PERMITTED"
        request = {"dev": device, "partnum": 1, "fs_type": "swap"}
        assert refusal(host, "mkfs", **request).code == "NOT_PERMITTED"
        assert (point / "file").read_text() == "stays"
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_bad_values_are_refused(old_plugged):
    host, device = old_plugged
    good = {"dev": device, "partition_start": START, "partition_end": "-"}
    for change in (
        {"partition_start": 0}, {"partition_start": -1}, {"partition_start": "1 2"},
        {"partition_start": 2.5}, {"partition_start": True}, {"partition_start": None},
        {"partition_start": DISK // 512}, {"partition_start": 2**40},
        {"partition_end": "100"}, {"partition_end": 100}, {"partition_end": None},
        {"partition_end": "-\n2,2"}, {"more": 1},
    ):  # fmt: skip
        failed = refusal(host, "make_partition", **{**good, **change})
        assert failed.code == "BAD_ARGUMENT", change
    partition(host, device)
    good = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": None}
    for change in (
        {"partnum": 0}, {"partnum": 5}, {"partnum": "1p"}, {"partnum": None},
        {"fs_type": "ext4"}, {"fs_type": "ext3 -L x"}, {"fs_type": None},
        {"fs_label": "-c"}, {"fs_label": "a b"}, {"fs_label": "x" * 17},
        {"fs_label": "a\nb"}, {"fs_label": ""}, {"fs_label": ["a"]},
    ):  # fmt: skip
        failed = refusal(host, "mkfs", **{**good, **change})
        assert failed.code == "BAD_ARGUMENT", change
    assert refusal(host, "mkfs", **{**good, "partnum": 2}).code == "NOT_FOUND"


def test_a_table_that_lies_is_refused(old_plugged):
    host, device = old_plugged
    request = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": None}
    assert refusal(host, "mkfs", **request).code == "NOT_FOUND"
    partition(host, device)
    for start, sectors in ((0, 2048), (2048, 2**31), (2**32 - 1, 2**32 - 1), (1, 0)):
        with open(node(host, device), "r+b", buffering=0) as disk:
            disk.seek(446 + 8)
            sector0 = start.to_bytes(4, "little") + sectors.to_bytes(4, "little")
            disk.seek(0)
            sector = bytearray(disk.read(512))
            sector[454:462] = sector0
            disk.seek(0)
            disk.write(sector)
        assert refusal(host, "mkfs", **request).code == "NOT_FOUND", (start, sectors)


def test_a_program_that_is_missing_or_fails_is_told(old_plugged):
    host, device = old_plugged
    partition(host, device)
    host.wrap("mkfs.ext3", "#!/bin/sh\necho 'out of inodes' >&2\nexit 3\n")
    failed = refusal(host, "mkfs", dev=device, partnum=1, fs_type="ext3")
    assert failed.code == "COMMAND_FAILED"
    assert "out of inodes" in failed.params[1]


def test_killed_while_it_formats_nothing_holds_the_disk(old_plugged):
    host, device = old_plugged
    partition(host, device)
    real = shutil.which("mkfs.ext3")
    host.wrap("mkfs.ext3", f"#!/bin/sh\n{real} \"$@\"\nsleep 60\n")
    request = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": None}
    process = host.start_call("partition_utils", "mkfs", request)
    end = time.monotonic() + 20
    while not loops(host, device):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while loops(host, device):
        assert time.monotonic() < end, "a loop device outlived its call"
        time.sleep(0.01)
    (host.root / "usr/bin/mkfs.ext3").unlink()
    call(host, "mkfs", **request)


def test_killed_at_any_time_a_repeat_succeeds(old_plugged, tmp_path):
    host, device = old_plugged
    request = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": None}
    partition(host, device)
    began = time.monotonic()
    call(host, "mkfs", **request)
    whole = time.monotonic() - began
    for point in range(8):
        process = host.start_call("partition_utils", "mkfs", request)
        time.sleep(whole * (0.3 + 0.09 * point))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    call(host, "mkfs", **request)
    file = in_partition(host, device, tmp_path)
    subprocess.run(["e2fsck", "-fn", str(file)], check=True, capture_output=True)


def test_a_loop_device_that_a_killed_call_left_is_freed(old_plugged):
    """As if killed between making it and telling it to go with its user."""
    host, device = old_plugged
    partition(host, device)
    disk = os.path.realpath(node(host, device))
    told("losetup", "-f", "--show", "-o", "1048576", disk)
    assert loops(host, device)
    call(host, "mkfs", dev=device, partnum=1, fs_type="swap", fs_label=None)


def test_a_left_loop_device_that_keeps_the_disks_lock_is_freed(old_plugged):
    """As if killed right after making it: it keeps the opening that it was made of."""
    host, device = old_plugged
    partition(host, device)
    disk = os.open(node(host, device), os.O_RDWR)
    fcntl.flock(disk, fcntl.LOCK_EX)
    control = os.open("/dev/loop-control", os.O_RDWR)
    loop = os.open(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}", os.O_RDWR)
    fcntl.ioctl(loop, LOOP_SET_FD, disk)
    for descriptor in (control, loop, disk):
        os.close(descriptor)
    assert loops(host, device)
    call(host, "mkfs", dev=device, partnum=1, fs_type="swap", fs_label=None)


def test_a_disk_that_somebody_keeps_locked_is_busy(old_plugged):
    host, device = old_plugged
    partition(host, device)
    source = host.dom0.plugins / "xenapi_dom0/partitions.py"
    text = source.read_text()
    assert "LOCK_PATIENCE = 30" in text
    source.write_text(text.replace("LOCK_PATIENCE = 30", "LOCK_PATIENCE = 0"))
    with open(node(host, device), "rb") as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        failed = refusal(host, "mkfs", dev=device, partnum=1, fs_type="swap")
    assert (failed.code, failed.params) == ("BUSY", ["the disk"])


def test_two_calls_on_a_disk_wait_for_each_other(old_plugged, tmp_path):
    host, device = old_plugged
    partition(host, device)
    request = {"dev": device, "partnum": 1, "fs_type": "ext3", "fs_label": None}
    calls = [host.start_call("partition_utils", "mkfs", request) for _ in range(3)]
    for one in calls:
        out, err = one.communicate(timeout=60)
        assert b"Success" in out, (out, err)
    file = in_partition(host, device, tmp_path)
    subprocess.run(["e2fsck", "-fn", str(file)], check=True, capture_output=True)
