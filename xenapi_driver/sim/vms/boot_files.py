# SPDX-License-Identifier: Apache-2.0
"""Kernels and ramdisks in dom0, from which guests without firmware are started."""

import stat
from pathlib import Path

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.world import World

# "XAPI today", section 22: the folder that the toolstack accepts since 24.20.
FOLDER = "/var/lib/xcp/guest/"
# As the refusal calls the two.
_LABELS = {"PV_kernel": "kernel", "PV_ramdisk": "ramdisk"}


def check(world: World, row: Row, host: str) -> None:
    """Refuse to start a guest whose boot files are not in the host's own dom0.

    :param row: the VM's
    :raises Failure: INVALID_VALUE
    """
    if row["domain_type"] == "hvm" or row["PV_bootloader"]:
        return
    root = world.dom0_of(host).root
    for name, label in _LABELS.items():
        file = row[name]
        if name == "PV_ramdisk" and not file:
            continue
        reason = _fault(root, file)
        if reason:
            raise Failure("INVALID_VALUE", label, file, reason)


def _fault(root: Path, file: str) -> str:
    """Return why a guest cannot be started from a file, "" where it can."""
    try:
        # Links are followed before anything is looked at.
        real = (root / file.lstrip("/")).resolve(strict=True)
        if not stat.S_ISREG(real.stat().st_mode):
            return "Is not a regular file"
    except (OSError, RuntimeError, ValueError):
        return "File does not exist"
    if not real.is_relative_to(root / FOLDER.strip("/")):
        return f"Is not in any of the allowed directories: {FOLDER}"
    return ""
