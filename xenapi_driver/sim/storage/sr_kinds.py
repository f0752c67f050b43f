# SPDX-License-Identifier: Apache-2.0
"""The kinds of SR that the simulated host has drivers for, and what each can do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.storage.raw_store import RawStore
from xenapi_driver.sim.storage.vhd_store import SrStore

Store = SrStore | RawStore

# What every driver that keeps VHDs can do.
_VHD = {
    "SR_PROBE": 1,
    "SR_UPDATE": 1,
    "VDI_ACTIVATE": 1,
    "VDI_ATTACH": 1,
    "VDI_CLONE": 1,
    "VDI_CONFIG_CBT": 1,
    "VDI_CREATE": 1,
    "VDI_DEACTIVATE": 1,
    "VDI_DELETE": 1,
    "VDI_DETACH": 1,
    "VDI_MIRROR": 1,
    "VDI_RESET_ON_BOOT": 2,
    "VDI_RESIZE": 1,
    "VDI_SNAPSHOT": 1,
    "VDI_UPDATE": 1,
}
_FILES = {
    **_VHD,
    "THIN_PROVISIONING": 1,
    "VDI_GENERATE_CONFIG": 1,
    "VDI_READ_CACHING": 1,
}
# What a driver answers where a key of device_config is missing.
_MISSING = {
    "device": 90,
    "target": 93,
    "location": 95,
    "targetIQN": 96,
    "server": 100,
    "serverpath": 101,
}
_PLAIN = {"VDI_ATTACH": 1, "VDI_DETACH": 1}


@dataclass(frozen=True)
class Kind:
    """One driver.

    :ivar content: vhd, thick (VHDs that take their full size), raw (images that
        everybody may share), luns (raw ones that somebody else made), or none
    :ivar required: keys that device_config must have
    """

    label: str
    description: str
    features: dict[str, int]
    content: str = "none"
    config: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()


KINDS = {
    "ext": Kind(
        "Local EXT3 VHD",
        "Disks as VHD files on a local file system",
        {**_FILES, "SR_SUPPORTS_LOCAL_CACHING": 1},
        "vhd",
        {"device": "local device path (required) (e.g. /dev/sda3)"},
        ("device",),
    ),
    "nfs": Kind(
        "NFS VHD",
        "Disks as VHD files on an NFS file system",
        _FILES,
        "vhd",
        {
            "server": "hostname or IP address of NFS server (required)",
            "serverpath": "path on remote server (required)",
        },
        ("server", "serverpath"),
    ),
    "lvm": Kind(
        "Local VHD on LVM",
        "Disks as VHDs on logical volumes of a local volume group",
        {**_VHD, "SR_TRIM": 1},
        "thick",
        {"device": "local device path (required) (e.g. /dev/sda3)"},
        ("device",),
    ),
    "iso": Kind(
        "ISO",
        "CD images as files",
        {
            **_PLAIN,
            "SR_ATTACH": 1,
            "SR_DETACH": 1,
            "SR_SCAN": 1,
            "VDI_CREATE": 1,
            "VDI_DELETE": 1,
        },
        "raw",
        {"location": "path to mount (required) (e.g. server:/path)"},
        ("location",),
    ),
    "udev": Kind(
        "udev",
        "Devices that were plugged into the host, as VDIs",
        {**_PLAIN, "SR_UPDATE": 1, "VDI_INTRODUCE": 1, "VDI_UPDATE": 1},
        "none",
        {"location": "path of the devices (required)"},
        ("location",),
    ),
    "iscsi": Kind(
        "iSCSI",
        "Whole logical units of an iSCSI target, one a VDI",
        {**_PLAIN, "SR_PROBE": 1, "VDI_INTRODUCE": 1},
        "luns",
        {
            "target": "IP address or hostname of the iSCSI target (required)",
            "targetIQN": "IQN of the target (required)",
            "chapuser": "user name of CHAP (optional)",
            "chappassword": "password of CHAP (optional)",
        },
        ("target", "targetIQN"),
    ),
    "dummy": Kind(
        "dummy",
        "Disks that nobody misses",
        {
            **_PLAIN,
            "SR_PROBE": 1,
            "VDI_ACTIVATE": 1,
            "VDI_CLONE": 1,
            "VDI_CREATE": 1,
            "VDI_DEACTIVATE": 1,
            "VDI_DELETE": 1,
            "VDI_INTRODUCE": 1,
            "VDI_MIRROR": 1,
            "VDI_RESIZE": 1,
            "VDI_SNAPSHOT": 1,
        },
        "vhd",
    ),
}


def sm_record(kind: str) -> dict[str, Any]:
    """Return the SM object of a kind."""
    about = KINDS[kind]
    return {
        "type": kind,
        "name_label": about.label,
        "name_description": about.description,
        "vendor": "XCP-ng",
        "copyright": "",
        "version": "3.2",
        "required_api_version": "1.0",
        "configuration": dict(about.config),
        "features": dict(about.features),
        "capabilities": list(about.features),
        "driver_filename": f"/opt/xensource/sm/{kind}SR",
    }


def features(row: Row) -> dict[str, int]:
    """Return what the driver of an SR can do; nothing where there is no driver."""
    kind = KINDS.get(row["type"])
    return kind.features if kind else {}


def require_feature(db: Registry, sr: str, feature: str) -> None:
    """Refuse what the SR's driver cannot do.

    :raises Failure: SR_OPERATION_NOT_SUPPORTED
    """
    if feature not in features(db.row("SR", sr)):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)


def check_config(kind: str, config: dict[str, str]) -> None:
    """Refuse a device_config with which the driver cannot attach.

    :raises Failure: SR_UNKNOWN_DRIVER, SR_BACKEND_FAILURE_* of the missing key
    """
    if kind not in KINDS:
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    for key in KINDS[kind].required:
        if not config.get(key):
            text = f"The request is missing the {key} parameter [opterr={key}]"
            raise Failure(f"SR_BACKEND_FAILURE_{_MISSING[key]}", "", text, "")


def open_store(kind: str, path: Path, size: int) -> Store | None:
    """Return the files of an SR, or None where it has none of its own."""
    content = KINDS[kind].content
    if content == "none":
        return None
    if content in ("raw", "luns"):
        return RawStore(path, size)
    return SrStore(path, size, thick=content == "thick")
