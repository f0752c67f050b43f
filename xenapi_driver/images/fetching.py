# SPDX-License-Identifier: Apache-2.0
"""From an image of any kind to a disk in the SR."""

from __future__ import annotations

from collections.abc import Callable

from xenapi_driver import exceptions
from xenapi_driver.images import kernels, kinds, qcow2, raw
from xenapi_driver.images.handlers import Handler
from xenapi_driver.images.local_dev import LocalDev
from xenapi_driver.images.repeating import until_moved
from xenapi_driver.images.source import ImageSource
from xenapi_driver.xapi.vdi import VdiRecord

GIB = 2**30


def fetch(
    handler: Handler,
    source: ImageSource,
    max_bytes: int | None,
    progress: Callable[[float], None] | None = None,
) -> VdiRecord:
    """Bring the image into the SR as one disk, which has no name yet.

    :param max_bytes: of the flavor's disk, None for no limit
    :raises exceptions.ImageError: one of its kinds; the SR is as it was
    :raises exceptions.UnfitHost: nova-compute's machine cannot read such an image
    :raises errors.XapiError: the host refused
    """
    kind = kinds.kind(source.image_id, source.disk_format, source.container_format)
    refuse_too_large(source, max_bytes)
    if kind == kinds.VHD:
        return handler.fetch_vhd(source, max_bytes, progress)

    def accept(size: int) -> None:
        if max_bytes is not None and size > max_bytes:
            raise too_large(source.image_id, size, max_bytes)

    def attempt() -> VdiRecord:
        rules = handler.rules
        with raw.opened(source, kind, accept, rules.work_dir) as content:
            return handler.write_raw(content, progress=progress)

    return until_moved(handler.rules.attempts, attempt)


def image_types(handler: Handler) -> dict[str, bool]:
    """Return which images we boot, by the names of Nova's capabilities.

    They become traits, by which the scheduler finds a host for an image.
    """
    kinds_read = {
        kinds.VHD: handler.name != LocalDev.name,
        kinds.RAW: True,
        kinds.QCOW2: qcow2.is_installed(),
        kinds.ISO: True,
        kinds.AMI: True,
        **dict.fromkeys(kernels.FORMATS.values(), True),
    }
    return {f"supports_image_type_{kind}": can for kind, can in kinds_read.items()}


def refuse_too_large(source: ImageSource, max_bytes: int | None) -> None:
    """Refuse, before a byte is written, what the image service knows to be too large.

    :raises exceptions.ImageTooLarge:
    """
    if max_bytes is None:
        return
    least = source.min_disk_gb * GIB
    if least > max_bytes:
        raise exceptions.ImageTooLarge(
            source.image_id,
            f"Image {source.image_id} wants a disk of {source.min_disk_gb} GiB "
            f"(min_disk), more than the flavor's {max_bytes // GIB} GiB: use a flavor "
            "with a larger disk.",
        )
    if source.virtual_size > max_bytes:
        raise too_large(source.image_id, source.virtual_size, max_bytes)


def too_large(image_id: str, size: int, limit: int) -> exceptions.ImageTooLarge:
    """Return the refusal of an image whose disk has ``size`` bytes."""
    return exceptions.ImageTooLarge(
        image_id,
        f"Image {image_id} has a disk of {size} bytes, more than the flavor's {limit} "
        "bytes: use a flavor with a larger disk.",
    )
