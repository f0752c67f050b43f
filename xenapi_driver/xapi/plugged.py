# SPDX-License-Identifier: Apache-2.0
"""A disk plugged into the machine of nova-compute, as a block device there."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator

from oslo_log import log as logging

from xenapi_driver.xapi import errors, vbd, vm
from xenapi_driver.xapi.client import Client

LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
_UNPLUG_PAUSE_SECONDS = 1.0


class NoDevice(errors.Advised):
    """A disk that was plugged did not appear as a block device.

    :param path: where it was looked for
    """

    def __init__(self, path: pathlib.Path, seconds: float) -> None:
        super().__init__(str(path), seconds)
        self.path, self.seconds = path, seconds

    @property
    def seen(self) -> str:
        return (
            "A disk that was plugged into the VM of nova-compute did not appear as "
            f"{self.path} within {self.seconds:.0f} s"
        )

    @property
    def remedy(self) -> str:
        return (
            "see that VM's kernel log, and [xenserver] block_device_dir and "
            "block_device_creation_timeout"
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where disks are plugged.

    :ivar vm_uuid: of the VM that nova-compute runs in
    :ivar device_dir: where its block devices appear
    :ivar seconds: how long that may take
    :ivar unplug_retries: a second apart, while the device is still used
    """

    vm_uuid: str
    device_dir: pathlib.Path = pathlib.Path("/dev")
    seconds: float = 10.0
    unplug_retries: int = 10


@contextlib.contextmanager
def plugged(
    session: Client, place: Place, vdi_ref: str, mode: str = "RW"
) -> Iterator[pathlib.Path]:
    """Give the block device of a disk that is plugged for the time of the block.

    :param mode: RW, or RO where the VM can have such disks: an HVM guest cannot
    :raises NoDevice: it did not appear
    :raises errors.XapiError: the host refused, or the disk could not be unplugged
    """
    own = vm.find_by_uuid(session, place.vm_uuid)
    if own is None:
        raise errors.UuidInvalid(
            "UUID_INVALID", ("VM", place.vm_uuid), "VM.get_by_uuid"
        )
    record = {
        "VM": own.ref,
        "VDI": vdi_ref,
        "userdevice": "autodetect",
        "bootable": False,
        # DISK_VBD_MUST_BE_READWRITE_FOR_HVM
        "mode": "RW" if own.domain_type == "hvm" else mode,
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    try:
        drive = vbd.create(session, record)
        vbd.plug(session, drive)
        yield _device(session, place, drive)
    finally:
        # Not by its reference alone: the host may have made it and then failed.
        for one in vbd.of_vm(session, own.ref):
            if one.vdi == vdi_ref:
                _removed(session, one.ref, place.unplug_retries)


def _device(session: Client, place: Place, drive: str) -> pathlib.Path:
    path = place.device_dir / vbd.get(session, drive).device
    deadline = time.monotonic() + place.seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise NoDevice(path, place.seconds)
        time.sleep(_LOOK_SECONDS)
    return path


def _removed(session: Client, drive: str, retries: int) -> None:
    """Unplug and remove the drive; its disk could not be destroyed else.

    Asked again whatever the host says: the device may still be in use, or the host
    be busy with it.
    """
    for left in reversed(range(retries + 1)):
        try:
            record = session.records[vbd.VbdRecord].get(drive)
            if record is not None and record.currently_attached:
                vbd.unplug(session, drive)
            vbd.destroy(session, drive)
            return
        except errors.XapiFailure as exc:
            if not left:
                raise
            LOG.debug("A plugged disk does not let go yet: %s", exc)
        time.sleep(_UNPLUG_PAUSE_SECONDS)
