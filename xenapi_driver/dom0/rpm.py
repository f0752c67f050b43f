# SPDX-License-Identifier: Apache-2.0
"""The RPM of the scripts, made by rpmbuild from the tarball and the spec.

The payload is gzip and the digests are SHA-256, so that the rpm 4.11 of today's hosts
reads it.
"""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from xenapi_driver.dom0 import tarball, tools, tree
from xenapi_driver.dom0.tree import LIBRARY, Entry

SPEC = pathlib.PurePath("packaging", f"{tarball.NAME}.spec")
RELEASE = "1"

_DEFINED = {
    "_binary_payload": "w9.gzdio",
    "_source_payload": "w9.gzdio",
    "_binary_filedigest_algorithm": "8",  # SHA-256
    # Two builds of the same files give the same bytes.
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
    "source_date_epoch_from_changelog": "0",
    "_buildhost": "localhost",
    # rpmbuild's own configuration differs by distribution and would compile,
    # strip or rewrite what we lay.
    "__os_install_post": "%{nil}",
    "_build_id_links": "none",
    "debug_package": "%{nil}",
}


def write(
    laid: Sequence[Entry],
    tar: pathlib.Path,
    spec: pathlib.Path,
    version: str,
    epoch: int,
) -> pathlib.Path:
    """Write the RPM beside the tarball and return its path.

    :param tar: the tarball of the same files
    :raises tools.ToolMissing: there is no rpmbuild
    :raises tools.ToolFailed: it gave up
    """
    rpmbuild = tools.find("rpmbuild", "rpm-build (Debian, Ubuntu: rpm)")
    with tempfile.TemporaryDirectory(prefix="xenapi-driver-rpm-") as scratch:
        top = pathlib.Path(scratch)
        sources = top / "SOURCES"
        sources.mkdir()
        shutil.copy(tar, sources / tar.name)
        (sources / "files").write_text("\n".join(_file_lines(laid)) + "\n")
        defined = {
            **_DEFINED,
            "_topdir": str(top),
            "_dbpath": str(top / "db"),  # not the machine's own
            "plugins_version": version,
            "plugins_release": RELEASE,
            "plugins_units": " ".join(tree.units(laid)) or "%{nil}",
        }
        argv = [rpmbuild, "-bb", "--quiet", "--target", "noarch"]
        for name, value in defined.items():
            argv += ["--define", f"{name} {value}"]
        tools.run([*argv, str(spec)], epoch)
        (built,) = top.glob("RPMS/noarch/*.rpm")
        return pathlib.Path(shutil.copy(built, tar.parent / built.name))


def _file_lines(laid: Sequence[Entry]) -> list[str]:
    """Return the lines of the spec's list of files."""
    lines = [f"%dir %attr(0755,root,root) /{LIBRARY}"]
    for entry in laid:
        kind = "%config(noreplace) " if entry.config else ""
        lines.append(f'{kind}%attr(0{entry.mode:o},root,root) "/{entry.path}"')
    return lines
