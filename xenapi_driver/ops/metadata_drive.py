# SPDX-License-Identifier: Apache-2.0
"""What Nova puts on a server's config drive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nova import exception as nova_exception
from nova.api.metadata import base as instance_metadata
from nova.virt import configdrive
from oslo_concurrency import processutils
from oslo_config import cfg

from xenapi_driver import exceptions
from xenapi_driver.steps import programs
from xenapi_driver.steps.config_drive import Content


def content(
    conf: cfg.ConfigOpts,
    instance: Any,
    injected_files: list,
    admin_password: str | None,
    network_info: Any,
) -> Content | None:
    """Return what makes the drive's image; None for a server that gets none.

    It gets one by its own wish, its image's, or ``[DEFAULT] force_config_drive``.
    Nothing is asked for yet.

    :param injected_files: pairs of path and bytes
    :raises exceptions.UnfitHost: the program that makes it is not installed
    """
    if not configdrive.required_by(instance):
        return None
    is_cd = conf.config_drive_format == "iso9660"
    if is_cd:
        programs.check(conf.mkisofs_cmd, "genisoimage", "makes config drives")
    else:
        programs.check("mkfs.vfat", "dosfstools", "makes config drives")

    def write(path: Path) -> None:
        extra = {"admin_pass": admin_password} if admin_password else {}
        told = instance_metadata.InstanceMetadata(
            instance,
            content=injected_files,
            extra_md=extra,
            network_info=network_info,
        )
        try:
            with configdrive.ConfigDriveBuilder(instance_md=told) as builder:
                builder.make_drive(str(path))
        except (
            nova_exception.ConfigDriveMountFailed,
            processutils.ProcessExecutionError,
            OSError,
        ) as exc:
            said = " ".join(str(getattr(exc, "stderr", "") or exc).split())[:500]
            raise exceptions.UnfitHost(
                f"The config drive of server {instance.uuid} could not be made on the "
                f"machine of nova-compute ({said})",
                "see [DEFAULT] config_drive_format and mkisofs_cmd",
            ) from exc

    return Content(write, is_cd)
