# SPDX-License-Identifier: Apache-2.0
"""The plugin ``kernel``: what is in the folder of guests' kernels afterwards."""

import contextlib
import json
import os
import re
import time
import uuid
from pathlib import Path

import pytest

from tests.dom0 import interpreters, kernels
from tests.dom0.kernels import MIB
from tests.dom0.scratch_host import PluginFailed, ScratchHost

FOLDER = "var/lib/xcp/guest"
OLD = "boot/guest"


@pytest.fixture(autouse=True)
def needs_loops():
    kernels.require_loops()


def kept(host, folder=FOLDER):
    return sorted(os.listdir(host.root / folder))


def at(host, path):
    return host.root / path.lstrip("/")


def uuid_of(host, vdi):
    return host.api.xenapi.VDI.get_uuid(vdi)


def be_version(host, text):
    """Let the host's toolstack be of another version."""
    db = host.sim.world.db
    software = dict(db.row("host", host.host_ref)["software_version"])
    software.pop("xapi", None)
    software["xapi_build"] = text
    db.update("host", host.host_ref, software_version=software)


def refusal(host, fn, request):
    with pytest.raises(PluginFailed) as caught:
        host.call("kernel", fn, request)
    return caught.value


def test_a_kernel_is_copied_from_its_disk(host):
    content = kernels.content(3 * MIB + 17)
    vdi = kernels.disk(host, 8 * MIB, content)
    image = str(uuid.uuid4())
    request = {"vdi_ref": vdi, "image_size": len(content), "cached_image": image}
    path = host.call("kernel", "copy_vdi", request)
    assert path == f"/{FOLDER}/{uuid_of(host, vdi)}"
    assert at(host, path).read_bytes() == content
    assert kept(host) == sorted([image, uuid_of(host, vdi)])
    assert kernels.drives(host) == []
    assert kernels.loops_of(host) == []
    # The disk is free again.
    host.api.xenapi.VDI.destroy(vdi)

    new = str(uuid.uuid4())
    request = {"cached_image": image, "new_image_uuid": new}
    path = host.call("kernel", "create_kernel_ramdisk", request)
    assert path == f"/{FOLDER}/{new}"
    assert at(host, path).read_bytes() == content

    files = {"kernel_file": path, "ramdisk_file": None}
    assert host.call("kernel", "remove_kernel_ramdisk", files) == "ok"
    assert new not in kept(host)
    assert at(host, f"/{FOLDER}/{image}").read_bytes() == content
    assert host.call("kernel", "remove_kernel_ramdisk", files) == "ok"


def test_the_host_boots_from_the_path_that_is_answered(old_host):
    host = old_host
    vdi = kernels.disk(host, 8 * MIB, b"kernel")
    path = host.call("kernel", "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    vm = bootable(host)
    host.api.xenapi.VM.set_PV_kernel(vm, "/boot/guest/x")
    with pytest.raises(Exception, match="INVALID_VALUE"):
        host.api.xenapi.VM.start(vm, False, False)
    host.api.xenapi.VM.set_PV_kernel(vm, path)
    host.api.xenapi.VM.start(vm, False, False)


def bootable(host):
    """Make a paravirtual VM that boots a kernel of dom0's."""
    api = host.api.xenapi
    template = next(
        ref for ref, record in api.VM.get_all_records().items()
        if record["is_a_template"] and record["name_label"].startswith("Other")
    )
    vm = api.VM.clone(template, "server")
    api.VM.set_is_a_template(vm, False)
    api.VM.set_domain_type(vm, "pvh")
    return vm


def test_a_uuid_names_the_disk_as_well_and_a_repeat_overwrites(old_host):
    host = old_host
    vdi = kernels.disk(host, 8 * MIB, b"first")
    request = {"vdi_uuid": uuid_of(host, vdi), "image_size": 5}
    path = host.call("kernel", "copy_vdi", request)
    assert at(host, path).read_bytes() == b"first"
    sr = host.api.xenapi.SR.get_by_uuid(host.sr_uuid)
    host.sim.world.stores[sr].write(uuid_of(host, vdi), 0, b"other")
    assert host.call("kernel", "copy_vdi", request) == path
    assert at(host, path).read_bytes() == b"other"


def test_a_cached_image_that_is_copied_anew_leaves_servers_alone(old_host):
    host = old_host
    image, new = str(uuid.uuid4()), str(uuid.uuid4())
    for text in (b"first", b"other"):
        vdi = kernels.disk(host, 8 * MIB, text)
        request = {"vdi_ref": vdi, "image_size": 5, "cached_image": image}
        host.call("kernel", "copy_vdi", request)
        if text == b"first":
            request = {"cached_image": image, "new_image_uuid": new}
            path = host.call("kernel", "create_kernel_ramdisk", request)
    assert at(host, path).read_bytes() == b"first"
    assert (host.root / FOLDER / image).read_bytes() == b"other"


def test_what_is_not_cached_is_answered_by_an_empty_text(old_host):
    request = {"cached_image": str(uuid.uuid4()), "new_image_uuid": str(uuid.uuid4())}
    assert old_host.call("kernel", "create_kernel_ramdisk", request) == ""
    link = old_host.root / FOLDER / request["cached_image"]
    link.symlink_to("/etc/hostname")
    assert old_host.call("kernel", "create_kernel_ramdisk", request) == ""
    assert kept(old_host) == [link.name]


# which folder


@pytest.mark.parametrize(
    ("version", "folder"),
    [
        ("26.17.0", FOLDER),
        ("24.20.0", FOLDER),
        ("24.19.2", FOLDER),
        ("24.11.0", OLD),
        ("1.249.3", OLD),
        ("unknown", FOLDER),
    ],
)
def test_the_folder_is_one_that_the_toolstack_accepts(old_host, version, folder):
    be_version(old_host, version)
    vdi = kernels.disk(old_host, 8 * MIB, b"kernel")
    path = old_host.call("kernel", "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    assert path == f"/{folder}/{uuid_of(old_host, vdi)}"
    assert at(old_host, path).read_bytes() == b"kernel"


def test_the_old_folder_may_be_a_link_to_one_of_the_sr(old_host):
    be_version(old_host, "1.249.3")
    (old_host.root / OLD).rmdir()
    (old_host.sr / "os-guest-kernels").mkdir()
    (old_host.root / OLD).symlink_to(old_host.sr / "os-guest-kernels")
    vdi = kernels.disk(old_host, 8 * MIB, b"kernel")
    path = old_host.call("kernel", "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    name = uuid_of(old_host, vdi)
    assert path == f"/{OLD}/{name}"
    assert (old_host.sr / "os-guest-kernels" / name).read_bytes() == b"kernel"
    files = {"kernel_file": path}
    assert old_host.call("kernel", "remove_kernel_ramdisk", files) == "ok"
    assert os.listdir(old_host.sr / "os-guest-kernels") == []


def test_a_folder_that_is_not_there_is_made(old_host):
    (old_host.root / FOLDER).rmdir()
    vdi = kernels.disk(old_host, 8 * MIB, b"kernel")
    path = old_host.call("kernel", "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    assert at(old_host, path).read_bytes() == b"kernel"


@pytest.mark.parametrize("trouble", ["link", "file", "unknown"])
def test_no_usable_folder_is_told_with_its_remedy(old_host, trouble):
    host = old_host
    folder = host.root / FOLDER
    folder.rmdir()
    if trouble == "link":
        (host.sr / "kernels").mkdir()
        folder.symlink_to(host.sr / "kernels")
    elif trouble == "file":
        folder.write_text("")
    else:
        be_version(host, "unknown")
        (host.root / OLD).rmdir()
    vdi = kernels.disk(host, 8 * MIB, b"kernel")
    failed = refusal(host, "copy_vdi", {"vdi_ref": vdi, "image_size": 6})
    assert failed.code == "NOT_SUPPORTED"
    assert f"/{FOLDER}" in failed.params[1]
    assert "--bind" in failed.params[1]
    assert kernels.drives(host) == []


# left-overs


def test_what_no_vm_names_is_reported_and_removed_on_request(host):
    named, cached, young = (str(uuid.uuid4()) for _ in range(3))
    for name in (named, cached, young):
        (host.root / FOLDER / name).write_bytes(b"12345")
        if name != young:
            os.utime(host.root / FOLDER / name, (time.time() - 90000,) * 2)
    old = str(uuid.uuid4())
    (host.root / OLD / old).write_bytes(b"1")
    os.utime(host.root / OLD / old, (time.time() - 90000,) * 2)
    (host.root / FOLDER / "vmlinuz-of-an-operator").write_bytes(b"mine")
    vm = bootable(host)
    host.api.xenapi.VM.set_PV_ramdisk(vm, f"/{FOLDER}/{named}")

    found = host.call("kernel", "left_overs", {})["files"]
    paths = {file["path"]: file for file in found}
    assert set(paths) == {f"/{FOLDER}/{cached}", f"/{OLD}/{old}"}
    assert paths[f"/{FOLDER}/{cached}"]["bytes"] == 5
    assert 90000 <= paths[f"/{FOLDER}/{cached}"]["age"] < 91000
    assert not any(file["removed"] for file in found)
    assert len(kept(host)) == 4

    found = host.call("kernel", "left_overs", {"remove": True})["files"]
    assert all(file["removed"] for file in found)
    assert kept(host) == sorted([named, young, "vmlinuz-of-an-operator"])
    assert kept(host, OLD) == []
    assert host.call("kernel", "left_overs", {"remove": True}) == {
        "files": [], "plugged": []
    }
    found = host.call("kernel", "left_overs", {"older_than": 0})["files"]
    assert [file["path"] for file in found] == [f"/{FOLDER}/{young}"]


def test_the_second_host_of_a_pool_uses_its_own_dom0(tmp_path):
    """Domain 0 is on every host: a plug into another's shows nothing here."""
    python = interpreters.wanted("3.6")
    host = ScratchHost(tmp_path / "host", python, hosts=2)
    try:
        api, world = host.api.xenapi, host.sim.world
        second = host.sim.machines.all[1].host
        root = world.dom0_of(second).root
        assert root != host.root
        sr = api.host.get_suspend_image_sr(second)
        host.sr_uuid = api.SR.get_uuid(sr)
        vdi = kernels.disk(host, 8 * MIB, b"kernel")
        request = json.dumps({"vdi_ref": vdi, "image_size": 6})
        path = json.loads(
            api.host.call_plugin(second, "kernel", "copy_vdi", {"request": request})
        )
        assert (root / path.lstrip("/")).read_bytes() == b"kernel"
        assert kept(host) == []
        assert not [vbd for vbd in api.VBD.get_all_records().values()
                    if vbd["VDI"] == vdi]  # fmt: skip
    finally:
        host.close()


def test_memory_is_small_whatever_the_size(old_host):
    folder = old_host.root / FOLDER
    vdi = kernels.disk(old_host, 128 * MIB, b"kernel")
    request = {"vdi_ref": vdi, "image_size": 128 * MIB}
    process = old_host.start_call("kernel", "copy_vdi", request)
    # Not what wait tells: that has the memory of these tests, who forked it.
    highest, seen = 0, re.compile(r"VmHWM:\s+(\d+) kB")
    while process.poll() is None:
        with contextlib.suppress(OSError, AttributeError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            copied = any(path.stat().st_size for path in folder.glob(".*"))
            if copied:
                highest = max(highest, int(seen.search(status).group(1)))
        time.sleep(0.002)
    out, _err = process.communicate()
    assert b"Success" in out
    assert 0 < highest < 64 * 1024, f"{highest} KiB"
