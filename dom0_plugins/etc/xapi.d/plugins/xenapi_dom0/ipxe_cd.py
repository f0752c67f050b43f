# SPDX-License-Identifier: Apache-2.0
"""Write a server's network settings into its iPXE boot CD.

The CD's files are copied out into a staging folder of the SR, two of them replaced,
and a CD made of them again; only when that is good does it take the old one's place,
by a rename. Whoever has the old one open keeps it as it was.
"""
import os
import stat

from xenapi_dom0 import commands, failures, iso9660, locks, staging

BOOT_LOADER, KERNEL = "isolinux.bin", "ipxe.krn"
SETTINGS, MENU, CATALOGUE = "netcfg.ipxe", "isolinux.cfg", "boot.cat"
MAKER_TIMEOUT = 600
MAKERS = ("mkisofs", "genisoimage", "xorrisofs")
MAX_SIZE = 4 * 1024 ** 3

_MENU = """DEFAULT ipxe
PROMPT 0
LABEL ipxe
KERNEL ipxe.krn
INITRD netcfg.ipxe
"""


def script(address, netmask, gateway, dns, url):
    """Return iPXE's script, text; what is None is asked for at the console.

    The values hold no space and no line end: each stays one word of its line.
    """
    lines = ["#!ipxe"]
    if address is not None and netmask is not None:
        lines += ["set net0/ip %s" % address, "set net0/netmask %s" % netmask]
        if gateway is not None:
            lines.append("set net0/gateway %s" % gateway)
        if dns is not None:
            lines.append("set dns %s" % dns)
        lines.append("ifopen net0")
    else:
        lines += ["echo No address is known: please enter one.", "config net0",
                  "ifopen net0"]
    if url is not None:
        # Without the menu there may still be a system on the disk.
        lines.append("chain %s || echo The boot menu cannot be reached." % url)
    else:
        lines += ["echo No boot menu is known: chain to one, or exit.", "shell"]
    lines.append("sanboot --no-describe --drive 0x80")
    return "\n".join(lines) + "\n"


def inject(sr_path, uuid, text, maker):
    """Put the script into the CD ``<uuid>.img``; return its new size.

    :param sr_path: real path of the SR that is the library or has it as ``iso``
    :param maker: one of MAKERS
    :raises Failure: NOT_FOUND, IMAGE_CORRUPT, COMMAND_MISSING, NO_SPACE, ...
    """
    commands.find(maker)  # before hundreds of megabytes are copied
    with locks.held("iso", uuid):
        library = _library(sr_path, uuid + ".img")
        try:
            with staging.folder(sr_path) as folder:
                return _replace(library, uuid + ".img", folder, text, maker)
        except OSError as exc:
            raise failures.from_os_error(exc, "rewrite the CD", sr_path) from exc
        finally:
            os.close(library)


def _library(sr_path, name):
    """Return a descriptor of the folder that has the CD: of the SR, or all of it."""
    for folder in (os.path.join(sr_path, "iso"), sr_path):
        try:
            library = os.open(
                folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError:
            continue
        try:
            os.stat(name, dir_fd=library, follow_symlinks=False)
            return library
        except OSError:
            os.close(library)
    raise failures.Failure(
        failures.NOT_FOUND, "the CD's file in the SR or its folder iso"
    )


def _replace(library, name, folder, text, maker):
    try:
        old = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            dir_fd=library,
        )
    except OSError as exc:
        raise failures.Failure(
            failures.NOT_FOUND, "a CD that can be read"
        ) from exc
    new = os.path.join(folder, "new.iso")
    try:
        about = os.fstat(old)
        if not stat.S_ISREG(about.st_mode):
            raise failures.Failure(failures.NOT_FOUND, "a CD that is a file")
        _require_space(folder, about.st_size)
        image = iso9660.Image(old)
        tree = os.path.join(folder, "tree")
        os.mkdir(tree, 0o700)
        _furnish(image, tree, text)
        _make(maker, image.volume, tree, new)
        size = _check(new, about)
    finally:
        os.close(old)
    os.rename(new, name, dst_dir_fd=library)
    os.fsync(library)
    return size


def _require_space(folder, size):
    space = os.statvfs(folder)
    # The tree, and the CD that is made of it.
    if size > MAX_SIZE:
        raise failures.Failure(failures.IMAGE_TOO_LARGE, MAX_SIZE, size)
    if 2 * size + iso9660.CHUNK > space.f_bavail * space.f_frsize:
        raise failures.Failure(failures.NO_SPACE, os.path.dirname(folder))


def _furnish(image, tree, text):
    """Unpack the CD and put our two files in place of any that it has."""
    found = iso9660.unpack(image, tree, image.size)
    for path in sorted(found):
        name = path[0]
        if len(path) > 1 or name.lower() not in (
            BOOT_LOADER, KERNEL, SETTINGS, MENU, CATALOGUE,
        ):
            continue
        if os.path.isdir(os.path.join(tree, name)):
            raise failures.Failure(
                failures.IMAGE_CORRUPT, "no iPXE CD: a folder in place of a boot file"
            )
        if name.lower() in (BOOT_LOADER, KERNEL):
            # The boot loader does not mind the case, who makes the CD does.
            os.rename(os.path.join(tree, name), os.path.join(tree, name.lower()))
        else:
            os.unlink(os.path.join(tree, name))
    for name in (BOOT_LOADER, KERNEL):
        if not os.path.isfile(os.path.join(tree, name)):
            raise failures.Failure(
                failures.IMAGE_CORRUPT, "no iPXE CD: it has no " + name
            )
    for name, content in ((SETTINGS, text), (MENU, _MENU)):
        with open(os.path.join(tree, name), "x") as out:
            out.write(content)


def _make(maker, volume, tree, new):
    argv = [maker, "-quiet", "-l", "-R", "-o", new, "-c", CATALOGUE,
            "-b", BOOT_LOADER, "-no-emul-boot", "-boot-load-size", "4",
            "-boot-info-table"]
    if volume:
        argv += ["-V", volume]
    commands.run(argv + [tree], timeout=MAKER_TIMEOUT)


def _check(new, old):
    """See that the new CD is whole and give it the old one's owner; return its size."""
    descriptor = os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = {entry.path for entry in iso9660.Image(descriptor).entries()}
        if not {(BOOT_LOADER,), (KERNEL,), (SETTINGS,), (MENU,)} <= found:
            raise failures.Failure(
                failures.COMMAND_FAILED, "make a CD", "it lacks a boot file"
            )
        os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
