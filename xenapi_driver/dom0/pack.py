# SPDX-License-Identifier: Apache-2.0
"""The supplemental pack: an ISO with the RPM and what describes it.

Its form is that of the packs which the hosts' packaging kit makes, read from what is
published about it: ``XS-REPOSITORY`` names pack and product, ``XS-PACKAGES`` each
package with size and MD5, and ``install.sh`` is what the host's
``xe-install-supplemental-pack`` starts. It carries no signature.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
import time
from xml.etree import ElementTree

from xenapi_driver.dom0 import rpm, tarball, tools

LABEL = "XENAPIPLUGINS"  # volume name: capital letters, digits, at most 16

ORIGINATOR = "xenapi-driver"
DESCRIPTION = "Plugins of xenapi-driver, the OpenStack Nova driver"

_INSTALL = """\
#!/bin/sh
# Install the package beside this file; again is harmless.
set -eu
cd "$(dirname "$0")"
version=$(rpm -qp --qf '%{{VERSION}}-%{{RELEASE}}' {rpm})
installed=$(rpm -q --qf '%{{VERSION}}-%{{RELEASE}}' {name} 2>/dev/null || true)
if [ "$version" = "$installed" ]; then
    echo "{name} $version is installed already."
    exit 0
fi
# A version that was tried before a release counts as later than it.
exec rpm -U --oldpackage {rpm}
"""


def write(package: pathlib.Path, version: str, epoch: int) -> pathlib.Path:
    """Write the ISO beside the RPM and return its path.

    :raises tools.ToolMissing: there is no xorriso
    :raises tools.ToolFailed: it gave up
    """
    xorriso = tools.find("xorriso", "xorriso")
    output = package.parent / f"{tarball.NAME}-{version}.iso"
    with tempfile.TemporaryDirectory(prefix="xenapi-driver-pack-") as scratch:
        folder = pathlib.Path(scratch, "pack")
        folder.mkdir()
        files = {
            package.name: package.read_bytes(),
            "XS-REPOSITORY": _repository(version),
            "XS-PACKAGES": _packages(package, version),
            "install.sh": _INSTALL.format(rpm=package.name, name=tarball.NAME).encode(),
        }
        for name, content in files.items():
            file = folder / name
            file.write_bytes(content)
            file.chmod(0o755 if name.endswith(".sh") else 0o644)
            os.utime(file, (epoch, epoch))
        folder.chmod(0o755)
        os.utime(folder, (epoch, epoch))
        made = pathlib.Path(scratch, "pack.iso")
        tools.run(_command(xorriso, folder, made, epoch), epoch)
        output.write_bytes(made.read_bytes())
    return output


def _command(
    xorriso: str, folder: pathlib.Path, iso: pathlib.Path, epoch: int
) -> list[str]:
    stamp = time.strftime("%Y%m%d%H%M%S00", time.gmtime(epoch))
    return [
        *(xorriso, "-as", "mkisofs", "-quiet", "-R", "-J"),
        *("-V", LABEL, "-uid", "0", "-gid", "0"),
        f"--modification-date={stamp}",
        *("--set_all_file_dates", stamp),
        *("-o", str(iso), str(folder)),
    ]


def _repository(version: str) -> bytes:
    root = ElementTree.Element(
        "repository",
        originator=ORIGINATOR,
        name=tarball.NAME,
        product="XenServer",
        version=version,
        build=rpm.RELEASE,
    )
    ElementTree.SubElement(root, "description").text = DESCRIPTION
    return _document(root)


def _packages(package: pathlib.Path, version: str) -> bytes:
    content = package.read_bytes()
    root = ElementTree.Element("packages")
    ElementTree.SubElement(
        root,
        "package",
        label=tarball.NAME,
        type="rpm",
        version=version,
        release=rpm.RELEASE,
        arch="noarch",
        size=str(len(content)),
        # The form has no other: it tells a damaged file, it is no protection.
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
    ).text = package.name
    return _document(root)


def _document(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n"
