# SPDX-License-Identifier: Apache-2.0
"""The ``direct_vhd`` handler: a dom0 plugin moves VHD chains into a file-based SR."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import source as image_source
from xenapi_driver.xapi import errors, plugins, sr, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

# One fresh UUID for each VHD that an image may hold; the longest chain that the
# documented image format allows.
LONGEST_CHAIN = 16

# VHDs carry bitmaps and headers beside the data: the documented slack by which
# an image's files may be larger than the flavor's disk.
SLACK_BYTES = 10 * 2**30


FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True)
class TransferRules:
    """How dom0 may fetch: attempts in all, and how it trusts the image service.

    :ivar ca_file: path **in dom0** of the CA that signed the service, or None
    """

    attempts: int = 3
    insecure: bool = False
    ca_file: str | None = None


def check_sr(record: sr.SrRecord, path: str | None) -> None:
    """Refuse an SR whose disks are not VHD files.

    :param path: the SR's directory in dom0, None where it has none
    :raises exceptions.UnfitHost: names the handler that can serve the SR
    """
    if path is None:
        raise exceptions.UnfitHost(
            f"SR {record.uuid} ({record.name_label}) is of type {record.type}, "
            "and image_handler = direct_vhd needs a file-based one (ext, nfs)",
            "choose an SR of type ext or nfs with sr_matching_filter",
        )


def fetch(
    home: Home,
    source: image_source.ImageSource,
    rules: TransferRules,
    max_bytes: int | None,
    progress: Callable[[float], None] | None = None,
) -> vdi.VdiRecord:
    """Bring the image into the SR and return its leaf VDI.

    :param max_bytes: the flavor's disk size, or None for no limit
    :raises exceptions.ImageError: one of its kinds; the SR is as it was before
    """
    if source.disk_format != "vhd":
        raise exceptions.ImageUnusable(
            source.image_id,
            f"Image {source.image_id} has disk_format {source.disk_format}; this "
            "release boots vhd images (container_format ovf) only.",
        )
    stack = [str(uuid.uuid4()) for _ in range(LONGEST_CHAIN)]
    try:
        answer = _download(home, source, rules, _Wishes(stack, max_bytes, progress))
        sr.scan(home.session, home.sr.ref)
        return vdi.by_uuid(home.session, answer["root"]["uuid"])
    except exceptions.DriverError:
        raise  # the plugin refused, and removed what it had begun
    except BaseException:
        _remove_strays(home, stack)
        raise


def _remove_strays(home: Home, stack: list[str]) -> None:
    """Destroy disks that dom0 may have made although we were not told so."""
    try:
        sr.scan(home.session, home.sr.ref)
        for record in vdi.in_sr(home.session, home.sr.ref):
            if record.uuid in stack and record.managed:
                vdi.destroy(home.session, record.ref)
    except errors.XapiError as exc:
        # The caller raises what came first; this is only its clean-up.
        LOG.warning(
            "A fetched image may be left in SR %(sr)s as one of %(uuids)s: %(error)s",
            {"sr": home.sr.uuid, "uuids": ", ".join(stack), "error": exc},
        )


@dataclass(frozen=True)
class _Wishes:
    """One fetch: the UUIDs its disks take, its limit, and who watches."""

    uuid_stack: list[str]
    max_bytes: int | None
    progress: Callable[[float], None] | None


def _download(
    home: Home,
    source: image_source.ImageSource,
    rules: TransferRules,
    wishes: _Wishes,
) -> dict:
    """Ask dom0 for the image, at another server after each failed attempt."""
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, rules.attempts + 1):
        request = _request(home, source, rules, wishes)
        try:
            return plugins.call(
                home.session,
                "glance",
                "download_vhd",
                request,
                progress=wishes.progress,
            )
        except errors.PluginError as exc:
            if exc.code not in plugins.RETRYABLE or attempt == rules.attempts:
                raise _image_error(home, source.image_id, exc) from exc
            LOG.warning(
                "Attempt %(attempt)d of %(attempts)d to fetch image %(image)s "
                "failed: %(error)s Trying again in %(pause).1f s.",
                {
                    "attempt": attempt,
                    "attempts": rules.attempts,
                    "image": source.image_id,
                    "error": exc,
                    "pause": pause,
                },
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def _request(
    home: Home,
    source: image_source.ImageSource,
    rules: TransferRules,
    wishes: _Wishes,
) -> dict:
    limit = wishes.max_bytes
    return {
        "image_id": source.image_id,
        "url": source.next_url(),
        "headers": source.headers,
        "sr_path": home.sr_path,
        "uuid_stack": wishes.uuid_stack,
        "checksum": source.checksum,
        "verify": {"ca_file": rules.ca_file, "insecure": rules.insecure},
        "max_bytes": None if limit is None else limit + SLACK_BYTES,
    }


def _image_error(
    home: Home, image_id: str, exc: errors.PluginError
) -> exceptions.DriverError:
    """Say in the image's terms what the plugin refused."""
    detail = " ".join(exc.params)
    if exc.code == "IMAGE_NOT_FOUND":
        return exceptions.ImageGone(
            image_id, f"The image service does not have image {image_id}."
        )
    if exc.code == "NO_SPACE":
        return exceptions.UnfitHost(
            f"SR {home.sr.uuid} is too full for image {image_id}: {detail}"
        )
    if exc.code == "IMAGE_CORRUPT":
        return exceptions.ImageUnusable(
            image_id, f"Image {image_id} is damaged: {detail}"
        )
    if exc.code == "IMAGE_TOO_LARGE":
        return exceptions.ImageTooLarge(
            image_id, f"Image {image_id} does not fit the flavor's disk: {detail}"
        )
    if exc.code in plugins.RETRYABLE:
        return exceptions.TransferFailed(
            image_id, f"Image {image_id} could not be fetched: {detail}"
        )
    return exceptions.UnfitHost(
        f"The dom0 plugin glance could not fetch image {image_id}: {exc}"
    )
