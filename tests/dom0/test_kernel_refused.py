# SPDX-License-Identifier: Apache-2.0
"""The plugin ``kernel``: hostile requests, trouble of the host, and kills."""

import os
import signal
import time
import uuid

import pytest

from tests.dom0 import kernels
from tests.dom0.kernels import MIB
from tests.dom0.scratch_host import PluginFailed

FOLDER = "var/lib/xcp/guest"
UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def needs_loops():
    kernels.require_loops()


def refusal(host, fn, request):
    with pytest.raises(PluginFailed) as caught:
        host.call("kernel", fn, request)
    return caught.value


BAD_COPIES = [
    {},
    {"vdi_ref": None, "image_size": 1},
    {"vdi_ref": "OpaqueRef:NULL", "image_size": 1},
    {"vdi_ref": "../../etc", "image_size": 1},
    {"vdi_uuid": UUID + "\n", "image_size": 1},
    {"vdi_uuid": "../" + UUID, "image_size": 1},
    {"vdi_uuid": UUID, "vdi_ref": "OpaqueRef:" + UUID, "image_size": 1},
    {"vdi_uuid": UUID, "image_size": 0},
    {"vdi_uuid": UUID, "image_size": -1},
    {"vdi_uuid": UUID, "image_size": 1.5},
    {"vdi_uuid": UUID, "image_size": True},
    {"vdi_uuid": UUID, "image_size": 2**60},
    {"vdi_uuid": UUID, "image_size": 1, "cached_image": "../../../etc/shadow"},
    {"vdi_uuid": UUID, "image_size": 1, "cached_image": ".."},
    {"vdi_uuid": UUID, "image_size": 1, "secret": "x"},
]


def test_a_bad_copy_is_refused(old_host):
    for request in BAD_COPIES:
        assert refusal(old_host, "copy_vdi", request).code == "BAD_ARGUMENT", request
    assert os.listdir(old_host.root / FOLDER) == []


def test_a_disk_that_is_not_there_is_told(old_host):
    failed = refusal(old_host, "copy_vdi", {"vdi_uuid": UUID, "image_size": 1})
    assert failed.code == "XAPI_REFUSED"
    assert failed.params[:2] == ["VDI.get_by_uuid", "UUID_INVALID"]


def test_more_than_the_disk_has_is_refused(old_host):
    vdi = kernels.disk(old_host, 8 * MIB)
    request = {"vdi_ref": vdi, "image_size": 8 * MIB + 1}
    assert refusal(old_host, "copy_vdi", request).code == "BAD_ARGUMENT"
    assert kernels.drives(old_host) == []


BAD_PATHS = [
    "/etc/passwd",
    f"/{FOLDER}/../../../../etc/victim",
    f"/{FOLDER}/sub/victim",
    f"/{FOLDER}/",
    f"/{FOLDER}",
    f"/{FOLDER}/..",
    f"/{FOLDER}/.hidden",
    f"{FOLDER}/victim",
    f"/{FOLDER}/vic\0tim",
    f"/{FOLDER}/a b",
    f"//{FOLDER}/victim",
    f"/{FOLDER}/" + "v" * 250,
    "",
    ["/etc/passwd"],
    7,
]


def test_only_files_of_the_folder_are_removed(old_host):
    host = old_host
    good = host.root / FOLDER / UUID
    good.write_text("stays, as the other file of the request is bad")
    (host.root / "etc/victim").write_text("stays")
    (host.root / FOLDER / "sub").mkdir()
    (host.root / FOLDER / "sub/victim").write_text("stays")
    for path in BAD_PATHS:
        request = {"kernel_file": f"/{FOLDER}/{UUID}", "ramdisk_file": path}
        failed = refusal(host, "remove_kernel_ramdisk", request)
        assert failed.code == "BAD_ARGUMENT", path
        assert good.exists()
    assert (host.root / "etc/victim").exists()
    assert (host.root / FOLDER / "sub/victim").exists()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_what_is_no_file_is_not_removed(old_host, kind):
    path = old_host.root / FOLDER / UUID
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    request = {"kernel_file": f"/{FOLDER}/{UUID}"}
    failed = refusal(old_host, "remove_kernel_ramdisk", request)
    assert failed.code == "BAD_ARGUMENT"
    assert os.path.lexists(path)
    # A cached image in its place is no image.
    request = {"cached_image": UUID, "new_image_uuid": str(uuid.uuid4())}
    assert old_host.call("kernel", "create_kernel_ramdisk", request) == ""


def test_a_folder_without_room_is_left_as_it_was(old_host):
    free = os.statvfs(old_host.root)
    size = free.f_bavail * free.f_frsize + 1024 * MIB
    vdi = kernels.disk(old_host, min(size, 2000 * 1024 * MIB))
    request = {"vdi_ref": vdi, "image_size": min(size, 2000 * 1024 * MIB)}
    failed = refusal(old_host, "copy_vdi", request)
    assert failed.code == "NO_SPACE"
    assert failed.params == [f"/{FOLDER}"]
    assert os.listdir(old_host.root / FOLDER) == []
    assert kernels.drives(old_host) == []


def test_a_disk_in_use_elsewhere_is_told_and_nothing_stays(old_host):
    vdi = kernels.disk(old_host, 8 * MIB)
    vbd, _device = kernels.plug(old_host, vdi)
    failed = refusal(old_host, "copy_vdi", {"vdi_ref": vdi, "image_size": 1})
    assert failed.params[:2] == ["VBD.plug", "VDI_IN_USE"]
    assert len(kernels.drives(old_host)) == 1
    kernels.unplug(old_host, vbd)


def test_an_unplug_that_is_refused_at_first_is_repeated(old_host):
    rejected = ["DEVICE_DETACH_REJECTED", "VBD", "{0}", "busy"]
    old_host.sim.faults.add("VBD.unplug", rejected, times=2)
    vdi = kernels.disk(old_host, 8 * MIB, b"kernel")
    old_host.call("kernel", "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    assert kernels.drives(old_host) == []


def test_a_vbd_that_cannot_be_removed_goes_with_the_next_call(old_host):
    old_host.sim.faults.add("VBD.unplug", ["INTERNAL_ERROR", "no mood"])
    first, second = (kernels.disk(old_host, 8 * MIB, b"kernel") for _ in range(2))
    # The copy is good, so it is answered.
    old_host.call("kernel", "copy_vdi", {"vdi_ref": first, "image_size": 6})
    assert len(kernels.drives(old_host)) == 1
    left = [old_host.api.xenapi.VDI.get_uuid(first)]
    assert old_host.call("kernel", "left_overs", {})["plugged"] == left
    assert len(kernels.drives(old_host)) == 1
    mine, _device = kernels.plug(old_host, kernels.disk(old_host, 8 * MIB))
    old_host.call("kernel", "copy_vdi", {"vdi_ref": second, "image_size": 6})
    # Somebody else's stays.
    assert len(kernels.drives(old_host)) == 1
    old_host.sim.faults.add("VBD.unplug", ["INTERNAL_ERROR", "no mood"])
    old_host.call("kernel", "copy_vdi", {"vdi_ref": first, "image_size": 6})
    assert old_host.call("kernel", "left_overs", {"remove": True})["plugged"] == left
    assert len(kernels.drives(old_host)) == 1
    kernels.unplug(old_host, mine)


def attached(host):
    return any(record["currently_attached"] for record in kernels.drives(host))


def kill_when(process, seen):
    """Kill a call as soon as something is seen; it must come to that."""
    end = time.monotonic() + 20
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


# What can be seen when a call is at that point, and the call that is made slow there.
POINTS = {
    "begun": ("VBD.get_all_records_where", lambda host, name: True),
    "made": ("VBD.create", lambda host, name: kernels.drives(host)),
    "plugged": ("VBD.plug", lambda host, name: attached(host)),
    "copying": ("", lambda host, name: list(folder_of(host).glob(".*"))),
    "copied": ("VBD.unplug", lambda host, name: (folder_of(host) / name).exists()),
    "unplugged": (
        "VBD.unplug",
        lambda host, name: (folder_of(host) / name).exists() and not attached(host),
    ),
}


def folder_of(host):
    return host.root / FOLDER


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_a_repeat_succeeds_and_nothing_stays(old_host, point):
    host = old_host
    content = kernels.content(24 * MIB)
    vdi = kernels.disk(host, 24 * MIB, content)
    name, image = host.api.xenapi.VDI.get_uuid(vdi), str(uuid.uuid4())
    request = {"vdi_ref": vdi, "image_size": len(content), "cached_image": image}
    method, seen = POINTS[point]
    if method:
        host.sim.faults.add(method, delay=0.4, after=True)
    process = host.start_call("kernel", "copy_vdi", request)
    kill_when(process, lambda: seen(host, name))
    for file in folder_of(host).glob("[!.]*"):
        assert file.read_bytes() == content, "half a file under a good name"
    # Another server's kernel, or this one again: each clears what was left.
    other = kernels.disk(host, 8 * MIB, b"other")
    path = host.call("kernel", "copy_vdi", {"vdi_ref": other, "image_size": 5})
    assert (host.root / path.lstrip("/")).read_bytes() == b"other"
    assert kernels.drives(host) == []
    assert list(folder_of(host).glob(".*")) == []
    host.call("kernel", "copy_vdi", request)
    for file in (name, image):
        assert (folder_of(host) / file).read_bytes() == content
    assert kernels.drives(host) == []
    assert kernels.loops_of(host) == []


def test_killed_at_any_time_no_file_is_half_done(old_host):
    host = old_host
    content = kernels.content(6 * MIB)
    vdi = kernels.disk(host, 8 * MIB, content)
    request = {"vdi_ref": vdi, "image_size": len(content)}
    began = time.monotonic()
    host.start_call("kernel", "copy_vdi", request).communicate()
    whole = time.monotonic() - began
    for point in range(8):
        for file in folder_of(host).iterdir():
            file.unlink()
        process = host.start_call("kernel", "copy_vdi", request)
        time.sleep(whole * (0.3 + 0.1 * point))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for file in folder_of(host).glob("[!.]*"):
            assert file.read_bytes() == content
    host.call("kernel", "copy_vdi", request)
    (file,) = folder_of(host).iterdir()
    assert file.read_bytes() == content
    assert kernels.drives(host) == []


def test_ended_by_xapi_it_cleans_up(old_host):
    vdi = kernels.disk(old_host, 200 * MIB, b"kernel")
    request = {"vdi_ref": vdi, "image_size": 200 * MIB}
    process = old_host.start_call("kernel", "copy_vdi", request)
    end = time.monotonic() + 20
    folder = old_host.root / FOLDER
    while not list(folder.iterdir()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.001)
    process.terminate()
    process.communicate()
    assert kernels.drives(old_host) == []
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []


def test_two_copies_of_one_disk_wait_for_each_other(old_host):
    content = kernels.content(4 * MIB)
    vdi = kernels.disk(old_host, 8 * MIB, content)
    request = {"vdi_ref": vdi, "image_size": len(content)}
    calls = [old_host.start_call("kernel", "copy_vdi", request) for _ in range(4)]
    for call in calls:
        out, err = call.communicate(timeout=60)
        assert b"Success" in out, (out, err)
    (name,) = os.listdir(old_host.root / FOLDER)
    assert (old_host.root / FOLDER / name).read_bytes() == content
    assert kernels.drives(old_host) == []
