# SPDX-License-Identifier: Apache-2.0
"""The plugin ``ipxe``: the CD afterwards, as isoinfo and xorriso read it."""

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
import uuid

import pytest
from xenapi_dom0 import commands, failures, ipxe_cd, iso9660

from tests.dom0 import kernels
from tests.dom0.scratch_host import PluginFailed

KRN = random.Random(1).randbytes(300_000)
LOADER = random.Random(2).randbytes(40_000)
PLAIN = ["genisoimage", "-quiet", "-l"]
ROCK_RIDGE = ["genisoimage", "-quiet", "-R", "-J"]
XORRISO = ["xorriso", "-as", "mkisofs", "-quiet", "-R"]
BOOT = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size",
        "4", "-boot-info-table"]  # fmt: skip
MENU = "set net0/ip 10.0.0.7\nset net0/netmask 255.255.255.0\n"


@pytest.fixture(autouse=True)
def needs_programs():
    missing = [name for name in ("genisoimage", "isoinfo", "xorriso")
               if shutil.which(name) is None]  # fmt: skip
    if missing:
        message = f"MISSING {missing}: no CD was looked at"
        if kernels.REQUIRED:
            pytest.fail(message)
        pytest.skip(message)


def make(folder, maker, files=None):
    """Make a CD of files, name to content, and return its path."""
    tree = folder / f"tree-{uuid.uuid4()}"
    (tree / "deep/er").mkdir(parents=True)
    standard = {
        "isolinux.bin": LOADER, "ipxe.krn": KRN, "isolinux.cfg": b"DEFAULT old\n",
        "deep/er/a long name of a file.txt": b"kept", "deep/empty": b"",
    }  # fmt: skip
    for name, data in (files if files is not None else standard).items():
        (tree / name).write_bytes(data)
    target = folder / f"{uuid.uuid4()}.iso"
    boot = BOOT if (tree / "isolinux.bin").exists() else []
    subprocess.run(
        [*maker, "-V", "IPXE_CD", *boot, "-o", str(target), str(tree)],
        check=True, capture_output=True,
    )  # fmt: skip
    return target


def library(host):
    folder = host.sr / "iso"
    folder.mkdir(exist_ok=True)
    return folder


def files(host):
    """Return what came into the SR, without folders."""
    # A folder whose lock was just removed by a killed call is left for a minute.
    return [name for name in host.left() if not (host.sr / name).is_dir()]


def put(host, cd):
    """Put a CD into the host's ISO library; return its VDI's UUID."""
    name = str(uuid.uuid4())
    shutil.copy(cd, library(host) / f"{name}.img")
    return name


def request_for(host, name, **changes):
    return {
        "sr_path": host.sr_path, "vdi_uuid": name,
        "boot_menu_url": "http://boot.example.org/menu.ipxe?a=1&b=2",
        "ip_address": "10.0.0.7", "netmask": "255.255.255.0",
        "gateway": "10.0.0.1", "dns": "10.0.0.2", "mkisofs_cmd": "mkisofs", **changes,
    }  # fmt: skip


def inject(host, name, **changes):
    return host.call("ipxe", "inject", request_for(host, name, **changes))


def refusal(host, name, **changes):
    with pytest.raises(PluginFailed) as caught:
        inject(host, name, **changes)
    return caught.value


def cat(image, path):
    """Return a file of a CD, by isoinfo."""
    argv = ["isoinfo", "-R", "-i", str(image), "-x", path]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def xorriso(image, *argv):
    told = subprocess.run(
        ["xorriso", "-indev", str(image), *argv], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return told.stdout


@pytest.mark.parametrize("maker", [PLAIN, ROCK_RIDGE, XORRISO], ids=lambda one: one[-1])
def test_the_settings_are_on_the_cd_and_the_rest_is_as_it_was(host, tmp_path, maker):
    name = put(host, make(tmp_path, maker))
    image = library(host) / f"{name}.img"
    image.chmod(0o640)
    said = inject(host, name)
    assert said == {"bytes": image.stat().st_size}
    script = cat(image, "/netcfg.ipxe").decode()
    assert script.startswith("#!ipxe\n" + MENU)
    assert "\nset net0/gateway 10.0.0.1\nset dns 10.0.0.2\nifopen net0\n" in script
    assert "\nchain http://boot.example.org/menu.ipxe?a=1&b=2 || " in script
    assert script.endswith("\nsanboot --no-describe --drive 0x80\n")
    menu = cat(image, "/isolinux.cfg").decode()
    assert "KERNEL ipxe.krn\nINITRD netcfg.ipxe\n" in menu
    assert cat(image, "/ipxe.krn") == KRN
    # The boot loader's bytes 8 to 63 say where it lies; the rest is as it was.
    loader = cat(image, "/isolinux.bin")
    assert (loader[:8], loader[64:]) == (LOADER[:8], LOADER[64:])
    files = xorriso(image, "-find", "/", "-type", "f")
    # Without Rock Ridge a long name is cut, in the CD that came as well.
    kept = [line for line in files.splitlines() if "/deep/er/" in line]
    (kept,) = (line.strip("'") for line in kept)
    assert cat(image, kept) == b"kept"
    boot = xorriso(image, "-report_el_torito", "plain")
    assert re.search(r"boot img :.* BIOS +y +none", boot)
    assert "/isolinux.bin" in boot
    assert "IPXE_CD" in xorriso(image, "-pvd_info")
    assert image.stat().st_mode & 0o777 == 0o640
    assert host.left() == ["iso", f"iso/{name}.img"]


def test_a_repeat_replaces_the_settings(old_host, tmp_path):
    name = put(old_host, make(tmp_path, ROCK_RIDGE))
    inject(old_host, name)
    size = (library(old_host) / f"{name}.img").stat().st_size
    for _attempt in range(2):
        inject(old_host, name, ip_address="10.0.0.8")
    image = library(old_host) / f"{name}.img"
    assert b"net0/ip 10.0.0.8\n" in cat(image, "/netcfg.ipxe")
    assert b"10.0.0.7" not in cat(image, "/netcfg.ipxe")
    assert image.stat().st_size == size


@pytest.mark.parametrize(
    "maker", ["genisoimage", "xorrisofs", "/usr/bin/mkisofs", None]
)
def test_each_maker_of_cds_does(old_host, tmp_path, maker):
    if maker and shutil.which(os.path.basename(maker)) is None:
        pytest.skip(f"MISSING {maker}")
    name = put(old_host, make(tmp_path, XORRISO))
    inject(old_host, name, mkisofs_cmd=maker)
    image = library(old_host) / f"{name}.img"
    assert cat(image, "/ipxe.krn") == KRN
    assert cat(image, "/netcfg.ipxe").startswith(b"#!ipxe\n")


def test_what_is_not_known_is_asked_for_at_the_console(old_host, tmp_path):
    name = put(old_host, make(tmp_path, ROCK_RIDGE))
    unknown = dict.fromkeys(
        ["boot_menu_url", "ip_address", "netmask", "gateway", "dns"]
    )
    inject(old_host, name, **unknown)
    script = cat(library(old_host) / f"{name}.img", "/netcfg.ipxe").decode()
    assert "config net0\n" in script and "shell\n" in script
    assert "None" not in script and "set " not in script


def test_without_a_maker_the_cd_is_as_it_was(old_host, tmp_path):
    cd = make(tmp_path, ROCK_RIDGE)
    name = put(old_host, cd)
    old_host.wrap("genisoimage", "#!/bin/sh\necho 'no room' >&2\nexit 255\n")
    failed = refusal(old_host, name, mkisofs_cmd="genisoimage")
    assert failed.code == "COMMAND_FAILED"
    assert "no room" in failed.params[1]
    # One that ends well with half a CD.
    old_host.wrap("genisoimage", """#!/bin/sh
while [ "$1" != -o ]; do shift; done
head -c 40000 /dev/zero > "$2"
""")
    failed = refusal(old_host, name, mkisofs_cmd="genisoimage")
    assert failed.code in ("COMMAND_FAILED", "IMAGE_CORRUPT")
    assert (library(old_host) / f"{name}.img").read_bytes() == cd.read_bytes()
    assert old_host.left() == ["iso", f"iso/{name}.img"]


def test_a_maker_that_dom0_lacks_is_told_before_anything_is_done(
    old_host, tmp_path, monkeypatch
):
    # The machine of the tests has them all, so its folders are taken away.
    monkeypatch.setattr(commands, "FOLDERS", ("/nowhere",))
    monkeypatch.setenv("XENAPI_DOM0_ROOT", str(old_host.root))
    cd = make(tmp_path, ROCK_RIDGE)
    name = put(old_host, cd)
    with pytest.raises(failures.Failure) as caught:
        ipxe_cd.inject(str(old_host.sr), name, "#!ipxe\n", "mkisofs")
    assert (caught.value.code, caught.value.params) == ("COMMAND_MISSING", ["mkisofs"])
    assert (library(old_host) / f"{name}.img").read_bytes() == cd.read_bytes()
    assert old_host.left() == ["iso", f"iso/{name}.img"]


BAD = [
    {"sr_path": "/etc"},
    {"sr_path": "/run/sr-mount/../../etc"},
    {"vdi_uuid": "../x"},
    {"vdi_uuid": "x"},
    {"ip_address": "10.0.0.7\nshell"},
    {"ip_address": "10.0.0.7 && shell"},
    {"ip_address": "10.0.0.256"},
    {"ip_address": "fe80::1"},
    {"ip_address": 167772167},
    {"netmask": "255.0.255.0"},
    {"netmask": "10.0.0.1"},
    {"gateway": "${net0/ip}"},
    {"dns": "dns.example.org"},
    {"boot_menu_url": "http://a/\nshell"},
    {"boot_menu_url": "http://a/ || shell"},
    {"boot_menu_url": "http://a/\u2028shell"},
    {"boot_menu_url": "http://user:secret@a/"},
    {"boot_menu_url": "file:///etc/passwd"},
    {"boot_menu_url": "tftp://a/b c"},
    {"boot_menu_url": "tftp://a/b#c"},
    {"boot_menu_url": "http://a/" + "x" * 1000},
    {"boot_menu_url": ["http://a/"]},
    {"mkisofs_cmd": "rm"},
    {"mkisofs_cmd": "/tmp/mkisofs"},
    {"mkisofs_cmd": "/usr/bin/../../tmp/mkisofs"},
    {"mkisofs_cmd": "mkisofs -o /etc/passwd"},
    {"mkisofs_cmd": "-o"},
    {"admin": "secret"},
]


def test_bad_values_are_refused_and_not_repeated(old_host, tmp_path):
    cd = make(tmp_path, ROCK_RIDGE)
    name = put(old_host, cd)
    for change in BAD:
        failed = refusal(old_host, name, **change)
        ((argument, value),) = change.items()
        assert (failed.code, failed.params[0]) == ("BAD_ARGUMENT", argument), change
        assert "secret" not in str(failed.params)
    assert (library(old_host) / f"{name}.img").read_bytes() == cd.read_bytes()


def test_what_is_no_ipxe_cd_is_refused(old_host, tmp_path):
    absent = str(uuid.uuid4())
    assert refusal(old_host, absent).code == "NOT_FOUND"
    library(old_host)
    assert refusal(old_host, absent).code == "NOT_FOUND"
    secret = tmp_path / "secret"
    secret.write_bytes(make(tmp_path, ROCK_RIDGE).read_bytes())
    (library(old_host) / f"{absent}.img").symlink_to(secret)
    assert refusal(old_host, absent).code == "NOT_FOUND"
    assert secret.read_bytes()
    for missing in ("isolinux.bin", "ipxe.krn"):
        files = {"isolinux.bin": LOADER, "ipxe.krn": KRN}
        del files[missing]
        name = put(old_host, make(tmp_path, ROCK_RIDGE, files))
        failed = refusal(old_host, name)
        assert failed.code == "IMAGE_CORRUPT"
        assert missing in failed.params[0]
    noise = tmp_path / "noise"
    noise.write_bytes(KRN)
    assert refusal(old_host, put(old_host, noise)).code == "IMAGE_CORRUPT"
    noise.write_bytes(b"")
    assert refusal(old_host, put(old_host, noise)).code == "IMAGE_CORRUPT"


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_cd_with_links_or_devices_is_refused(old_host, tmp_path, kind):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "isolinux.bin").write_bytes(LOADER)
    (tree / "ipxe.krn").write_bytes(KRN)
    if kind == "link":
        (tree / "netcfg.ipxe").symlink_to("/etc/passwd")
    else:
        os.mkfifo(tree / "pipe")
    cd = tmp_path / "cd.iso"
    subprocess.run([*XORRISO, "-o", str(cd), str(tree)], check=True)
    assert refusal(old_host, put(old_host, cd)).code == "IMAGE_CORRUPT"


@pytest.mark.parametrize("name", [b"../x.krn", b"/etc/pwn", b"a\0b.krn!"])
def test_a_name_that_leads_elsewhere_is_refused(old_host, tmp_path, name):
    cd = make(tmp_path, ROCK_RIDGE)
    data = cd.read_bytes()
    assert data.count(b"ipxe.krn") == 1, "Rock Ridge has the name, ISO 9660 not"
    cd.write_bytes(data.replace(b"ipxe.krn", name))
    failed = refusal(old_host, put(old_host, cd))
    assert failed.code == "IMAGE_CORRUPT"
    assert "leads elsewhere" in failed.params[0]
    assert len(files(old_host)) == 1


def test_a_cd_whose_files_overlap_does_not_grow_without_end(old_host, tmp_path):
    """Each file claims the whole CD: together more than it has."""
    cd = make(tmp_path, ROCK_RIDGE)
    data = bytearray(cd.read_bytes())
    size = len(data)
    for name in (b"IPXE.KRN;1", b"ISOLINUX.BIN;1", b"ISOLINUX.CFG;1"):
        record = data.index(name) - 33
        data[record + 2 : record + 6] = bytes(4)
        data[record + 10 : record + 14] = size.to_bytes(4, "little")
    cd.write_bytes(data)
    assert refusal(old_host, put(old_host, cd)).code == "IMAGE_TOO_LARGE"
    assert len(files(old_host)) == 1


def test_the_library_may_be_the_whole_of_an_sr(old_host, tmp_path):
    name = str(uuid.uuid4())
    image = old_host.sr / f"{name}.img"
    shutil.copy(make(tmp_path, ROCK_RIDGE), image)
    assert inject(old_host, name) == {"bytes": image.stat().st_size}
    assert MENU.encode() in cat(image, "/netcfg.ipxe")
    assert old_host.left() == [f"{name}.img"]


def test_a_library_that_is_a_link_is_refused(old_host, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (old_host.sr / "iso").symlink_to(tmp_path / "elsewhere")
    name = str(uuid.uuid4())
    shutil.copy(make(tmp_path, ROCK_RIDGE), tmp_path / f"elsewhere/{name}.img")
    assert refusal(old_host, name).code == "NOT_FOUND"


def test_killed_at_any_time_the_cd_is_the_old_one_or_the_new_one(old_host, tmp_path):
    host = old_host
    cd = make(tmp_path, ROCK_RIDGE)
    name = put(host, cd)
    image = library(host) / f"{name}.img"
    request = request_for(host, name)
    began = time.monotonic()
    inject(host, name)
    whole = time.monotonic() - began
    seen = set()
    for point in range(10):
        shutil.copy(cd, image)
        process = host.start_call("ipxe", "inject", request)
        time.sleep(whole * (0.4 + 0.08 * point))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        is_old = image.read_bytes() == cd.read_bytes()
        assert is_old or cat(image, "/netcfg.ipxe").endswith(b"0x80\n")
        seen.add(is_old)
    assert True in seen, "every kill came too late"
    inject(host, name)
    assert files(host) == [f"iso/{name}.img"]


def test_killed_while_the_cd_is_made_its_maker_dies_too(old_host, tmp_path):
    host = old_host
    name = put(host, make(tmp_path, ROCK_RIDGE))
    pid_file = tmp_path / "pid"
    host.wrap("genisoimage", f"#!/bin/sh\necho $$ > {pid_file}.new\n"
              f"mv {pid_file}.new {pid_file}\nexec sleep 60\n")
    request = request_for(host, name, mkisofs_cmd="genisoimage")
    process = host.start_call("ipxe", "inject", request)
    end = time.monotonic() + 20
    while not pid_file.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pid = int(pid_file.read_text())
    while os.path.exists(f"/proc/{pid}") and "Z" not in state(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    (host.root / "usr/bin/genisoimage").unlink()
    inject(host, name)
    assert files(host) == [f"iso/{name}.img"]


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_cd_whose_root_folder_is_empty_is_told(old_host, tmp_path):
    cd = bytearray(make(tmp_path, ROCK_RIDGE).read_bytes())
    root = struct.unpack_from("<I", cd, 0x8000 + 156 + 2)[0] * iso9660.BLOCK
    cd[root:root + iso9660.BLOCK] = bytes(iso9660.BLOCK)
    file = tmp_path / "empty"
    file.write_bytes(cd)
    assert refusal(old_host, put(old_host, file)).code == "IMAGE_CORRUPT"


def test_damaged_cds_are_refused_by_a_reason_and_write_nothing_elsewhere(tmp_path):
    seed = make(tmp_path, ROCK_RIDGE).read_bytes()
    hit = random.Random(7)
    file = tmp_path / "damaged"
    outcomes = {"read": 0, "refused": 0}
    for attempt in range(800):
        data = bytearray(seed)
        # Most of what matters lies in the descriptors and in the folders after them.
        for _count in range(hit.randint(1, 8)):
            place = 0x8000 + hit.randrange(0x8000 if attempt % 4 else 0x38000)
            data[place] = hit.choice([0, 1, 0x7F, 0x80, 0xFF, hit.randrange(256)])
        file.write_bytes(data[: hit.choice([len(data), hit.randrange(len(data))])])
        with open(file, "rb") as opened:
            try:
                image = iso9660.Image(opened.fileno())
                for entry in image.entries():
                    assert all(part not in ("", ".", "..") for part in entry.path)
                    assert not any("/" in part for part in entry.path)
                    assert entry.start + entry.size <= image.size
                outcomes["read"] += 1
            except failures.Failure as exc:
                assert exc.code == failures.IMAGE_CORRUPT
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes
