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
    pause = FIRST_PAUSE_SECONDS
    for left in reversed(range(rules.attempts)):
        stack = [str(uuid.uuid4()) for _ in range(LONGEST_CHAIN)]
        request = _request(home, source, rules, stack, max_bytes)
        try:
            return _fetched(home, request, progress)
        except errors.PluginError as exc:
            # The plugin refused, and removed what it had begun; it has asked each
            # server as often as the rules allow.
            raise _image_error(home, source.image_id, exc) from exc
        except errors.PluginFailure as exc:
            _remove_strays(home, stack)
            if not left or not _was_killed(exc):
                raise
            LOG.warning(
                "The dom0 plugin was killed while it fetched image %(image)s: "
                "%(error)s Trying again in %(pause).1f s.",
                {"image": source.image_id, "error": exc, "pause": pause},
            )
        except BaseException:
            _remove_strays(home, stack)
            raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def _was_killed(exc: errors.PluginFailure) -> bool:
    """Say whether XAPI tells that a signal ended the plugin."""
    return any("signal" in param for param in exc.params[:2])


def _fetched(
    home: Home, request: dict, progress: Callable[[float], None] | None
) -> vdi.VdiRecord:
    """Have dom0 fetch, and return the disk as the host knows it."""
    answer = plugins.call(
        home.session, "glance", "download_vhd", request, progress=progress
    )
    sr.scan(home.session, home.sr.ref)
    return vdi.by_uuid(home.session, answer["root"]["uuid"])


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


def _request(
    home: Home,
    source: image_source.ImageSource,
    rules: TransferRules,
    uuid_stack: list[str],
    max_bytes: int | None,
) -> dict:
    urls = source.urls()
    return {
        "image_id": source.image_id,
        "urls": urls,
        "attempts": rules.attempts,
        "schemes": _schemes(urls),
        "headers": source.headers,
        "sr_path": home.sr_path,
        "uuid_stack": uuid_stack,
        "checksum": source.checksum,
        "verify": {"ca_file": rules.ca_file, "insecure": rules.insecure},
        "max_bytes": None if max_bytes is None else max_bytes + SLACK_BYTES,
    }


def _schemes(urls: list[str]) -> list[str]:
    """Return what dom0 may use: http only where a server is configured with it."""
    return sorted({"https"} | {url.partition(":")[0] for url in urls})


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
