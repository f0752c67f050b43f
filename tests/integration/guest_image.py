# SPDX-License-Identifier: Apache-2.0
"""A tiny Linux that boots from its own disk and tells over serial what it sees.

The distribution's kernel, busybox and a boot loader, on a disk as an installer makes
it: a partition table, one partition with ext3 (the boot loader reads no newer one).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from demo.image import run

MIB = 1 << 20
SIZE = 48 * MIB
START = MIB  # of the partition
BUSYBOX = Path("/bin/busybox")
BOOT_SECTOR = Path("/usr/lib/EXTLINUX/mbr.bin")
PROGRAMS = ("extlinux", "modprobe", "mkfs.ext3", "losetup", "sfdisk", "cpio")
# Drivers of what the emulator shows, and the file system of CDs.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "isofs")

LOADER = """\
default linux
prompt 0
timeout 0
label linux
    kernel /vmlinuz
    initrd /initrd
    append console=ttyS0 quiet panic=1
"""
# In the ramdisk: find the disk and go on from there.
FIRST = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t ext3 /dev/vda1 /root
exec switch_root /root /init
"""
# On the disk. What it tells are lines "guest: WORD VALUE".
SECOND = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1
tell() { echo "guest: $*"; }
field() { sed -n "s/.*\\"$1\\": \\"\\([^\\"]*\\)\\".*/\\1/p" $2 | head -n 1; }

tell disk $(cat /sys/class/block/vda/size)
tell partition $(cat /sys/class/block/vda1/size)
tell filesystem $(df -k / | awk 'END { print $2 }')
tell words $(md5sum </words | cut -d " " -f 1)

drive=$(findfs LABEL=config-2) && mount -t iso9660 -o ro $drive /config
data=/config/openstack/latest
tell uuid $(tr , "\\n" <$data/meta_data.json >/tmp/meta; field uuid /tmp/meta)
tell name $(field name /tmp/meta)
tr , "\\n" <$data/network_data.json >/tmp/network
mac=$(field ethernet_mac_address /tmp/network)
address=$(field ip_address /tmp/network)
for card in /sys/class/net/*; do
    [ "$(cat $card/address)" = "$mac" ] || continue
    ifconfig ${card##*/} $address netmask $(field netmask /tmp/network) up
    tell address $(ip -4 -o addr show ${card##*/} | awk '{ print $4 }')
done
for each in $(findfs LABEL=ephemeral0) $(findfs LABEL=ephemeral); do
    mkdir /more
    mount $each /more && tell ephemeral $(df -k /more | awk 'END { print $2 }')
done
for each in /dev/vd?1 /dev/vd?; do
    swapon $each 2>/dev/null && tell swap $(awk 'END { print $3 }' /proc/swaps)
done
tell ready
exec httpd -f -p 80 -h /config
"""


def missing() -> list[str]:
    """What is not installed here."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    names = (*PROGRAMS, "qemu-system-x86_64")
    absent = [name for name in names if shutil.which(name, path=path) is None]
    absent += [str(file) for file in (BUSYBOX, BOOT_SECTOR) if not file.exists()]
    if not kernels():
        absent.append("a kernel of linux-image-cloud-amd64")
    return absent


def kernels() -> list[Path]:
    """The installed kernels, newest last."""
    found = Path("/boot").glob("vmlinuz-*-cloud-amd64")

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name)]

    return sorted(found, key=version)


def make(folder: Path, words: bytes) -> Path:
    """Make the disk, with a file of these words; needs root. Returns it, raw."""
    kernel = kernels()[-1]
    tree = folder / "root"
    for name in ("bin", "config", "dev", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    shutil.copy(kernel, tree / "vmlinuz")
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    script(tree / "init", SECOND)
    (tree / "words").write_bytes(words)
    (tree / "extlinux.conf").write_text(LOADER)
    ramdisk(folder / "initrd", tree / "initrd", kernel.name.removeprefix("vmlinuz-"))

    disk = folder / "guest.raw"
    with disk.open("wb") as out:
        out.truncate(SIZE)
    sectors = f"{START // 512},,83,*\n"
    subprocess.run(["sfdisk", "-q", str(disk)], input=sectors.encode(), check=True)
    with disk.open("r+b") as out:
        out.write(BOOT_SECTOR.read_bytes())
    size = f"{(SIZE - START) >> 10}k"
    run(["mkfs.ext3", "-q", "-d", str(tree), "-E", f"offset={START}"]
        + [str(disk), size])  # fmt: skip
    with mounted(disk, folder / "mounted") as place:
        run(["extlinux", "--install", str(place)])
    return disk


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def ramdisk(tree: Path, target: Path, version: str) -> None:
    """Pack what finds the root disk."""
    for name in ("bin", "dev", "modules", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    script(tree / "init", FIRST)
    wanted: list[str] = []
    for name in MODULES:
        told = run(["modprobe", "-S", version, "--show-depends", name])
        files = re.findall(r"^insmod (\S+)", told, re.MULTILINE)
        wanted += [file for file in files if file not in wanted]
    for number, file in enumerate(wanted):
        shutil.copy(file, tree / f"modules/{number:02}-{Path(file).name}")
    names = "\n".join(str(f.relative_to(tree)) for f in sorted(tree.rglob("*")))
    with target.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            input=names.encode(),
            stdout=out,
            cwd=tree,
            check=True,
        )


@contextlib.contextmanager
def mounted(disk: Path, place: Path) -> Iterator[Path]:
    """Mount the partition of a raw disk.

    :raises DemoFailure: no loop device, or not root
    """
    place.mkdir()
    device = run(["losetup", "-f", "--show", "-o", str(START), str(disk)]).strip()
    try:
        run(["mount", "-t", "ext4", device, str(place)])
        try:
            yield place
        finally:
            run(["umount", str(place)])
    finally:
        run(["losetup", "-d", device])


def told(console: str) -> dict[str, str]:
    """What a guest told, by its first word."""
    lines = re.findall(r"^guest: (\S+) ?(.*?)\r?$", console, re.MULTILINE)
    return dict(lines)


