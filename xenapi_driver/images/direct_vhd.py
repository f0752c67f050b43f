# SPDX-License-Identifier: Apache-2.0
"""The ``direct_vhd`` handler: a dom0 plugin moves VHD chains of a file-based SR."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import fresh, imported
from xenapi_driver.images import source as image_source
from xenapi_driver.images.raw import RawContent
from xenapi_driver.images.repeating import until_moved
from xenapi_driver.images.rules import TransferRules
from xenapi_driver.xapi import errors, plugins, sr, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

# One fresh UUID for each VHD that an image may hold; the longest chain that the
# documented image format allows.
LONGEST_CHAIN = 16

# VHDs carry bitmaps and headers beside the data: the documented slack by which
# an image's files may be larger than the flavor's disk.
SLACK_BYTES = 10 * 2**30


FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


class DirectVhd:
    """The handler: VHDs by the plugin, other disks through XAPI's import."""

    name = "direct_vhd"
    longest_chain = LONGEST_CHAIN

    def __init__(self, home: Home, rules: TransferRules) -> None:
        self._home = home
        self.rules = rules

    @staticmethod
    def check_sr(record: sr.SrRecord, path: str | None) -> None:
        """Refuse an SR whose disks are not VHD files.

        :param path: the SR's directory in dom0, None where it has none
        :raises exceptions.UnfitHost: names the handler that can serve the SR
        """
        if path is None:
            raise exceptions.UnfitHost(
                f"SR {record.uuid} ({record.name_label}) is of type {record.type}, "
                "and image_handler = direct_vhd needs a file-based one (ext, nfs)",
                "set image_handler = vdi_remote_stream, which serves any SR, or choose "
                "an SR of type ext or nfs with sr_matching_filter",
            )

    def fetch_vhd(
        self,
        source: image_source.ImageSource,
        max_bytes: int | None,
        progress: Callable[[float], None] | None = None,
    ) -> vdi.VdiRecord:
        """Bring a VHD image into the SR; see :func:`fetch`."""
        return fetch(self._home, source, self.rules, max_bytes, progress)

    def write_raw(
        self,
        content: RawContent,
        sr_ref: str | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> vdi.VdiRecord:
        """Make a disk of other content; see :func:`imported.write_raw`."""
        return imported.write_raw(self._home, content, sr_ref, progress)

    def store(
        self,
        target: image_source.ImageTarget,
        leaf: vdi.VdiRecord,
        chain: list[str],
        progress: Callable[[float], None] | None = None,
    ) -> image_source.Stored:
        """Give a snapshot's chain to an image; see :func:`store`."""
        return store(self._home, target, chain, self.rules, progress)


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
    checksum = source.checksum
    if source.signed:
        checksum = until_moved(rules.attempts, lambda: _verified(source))

    def attempt() -> vdi.VdiRecord:
        stack = [fresh.new_uuid(home.host.uuid) for _ in range(LONGEST_CHAIN)]
        request = {
            **_request(home, source, rules),
            "uuid_stack": stack,
            "checksum": checksum,
            "max_bytes": None if max_bytes is None else max_bytes + SLACK_BYTES,
        }
        try:
            return _fetched(home, request, progress)
        except errors.PluginError as exc:
            # The plugin refused, and removed what it had begun; it has asked each
            # server as often as the rules allow.
            raise _image_error(home, source.image_id, exc, "fetched") from exc
        except BaseException:
            _remove_strays(home, stack)
            raise

    return _until_not_killed(source.image_id, rules, attempt)


def _verified(source: image_source.ImageSource) -> dict[str, str]:
    """Return the hash of an image whose signature is right.

    dom0 cannot verify it: so Nova's client reads the image once, and dom0 is told
    the hash of what was verified.

    :raises exceptions.ImageUnusable: it is not right
    """
    digest = hashlib.sha512()
    for piece in source.pieces():
        digest.update(piece)
    return {"algo": "sha512", "value": digest.hexdigest()}


def store(
    home: Home,
    target: image_source.ImageTarget,
    vdi_uuids: list[str],
    rules: TransferRules,
    progress: Callable[[float], None] | None = None,
) -> image_source.Stored:
    """Give the disks of a snapshot's chain to an image that waits for them.

    :param vdi_uuids: leaf first, down to the base; nobody may write to them
    :raises exceptions.ImageError: one of its kinds; the image has no data then
    """

    def attempt() -> image_source.Stored:
        request = {
            **_request(home, target, rules),
            "vdi_uuids": vdi_uuids,
            "properties": target.properties,
            "compression_level": rules.compression_level,
        }
        try:
            answer = plugins.call(
                home.session, "glance", "upload_vhd", request, progress=progress
            )
        except errors.PluginError as exc:
            raise _image_error(home, target.image_id, exc, "stored") from exc
        return image_source.Stored(answer["bytes"], answer["checksum"]["value"])

    return _until_not_killed(target.image_id, rules, attempt)


def _until_not_killed(
    image_id: str, rules: TransferRules, attempt: Callable[[], Result]
) -> Result:
    """Do it again while a signal ends the plugin: out of memory, or an operator."""
    pause = FIRST_PAUSE_SECONDS
    for left in reversed(range(rules.attempts)):
        try:
            return attempt()
        except errors.PluginFailure as exc:
            if not left or not _was_killed(exc):
                raise
            LOG.warning(
                "The dom0 plugin was killed while it moved image %(image)s: "
                "%(error)s Trying again in %(pause).1f s.",
                {"image": image_id, "error": exc, "pause": pause},
            )
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
    return vdi.found_by_scan(home.session, home.sr.ref, answer["root"]["uuid"])


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
    image: image_source.ImageSource | image_source.ImageTarget,
    rules: TransferRules,
) -> dict:
    """Return what a request says in either direction."""
    urls = image.urls()
    return {
        "image_id": image.image_id,
        "urls": urls,
        "attempts": rules.attempts,
        "schemes": _schemes(urls),
        "headers": image.headers,
        "sr_path": home.sr_path,
        "verify": {"ca_file": rules.ca_file, "insecure": rules.insecure},
    }


def _schemes(urls: list[str]) -> list[str]:
    """Return what dom0 may use: http only where a server is configured with it."""
    return sorted({"https"} | {url.partition(":")[0] for url in urls})


def _image_error(
    home: Home, image_id: str, exc: errors.PluginError, done: str
) -> exceptions.DriverError:
    """Say in the image's terms what the plugin refused.

    :param done: what could not be: ``fetched`` or ``stored``
    """
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
    if exc.code in ("BUSY", "NOT_FOUND") and done == "stored":
        # The storage manager merges them, or has.
        return exceptions.DisksBusy(
            image_id, f"Image {image_id} could not be stored: {detail}"
        )
    if exc.code in (*plugins.RETRYABLE, "NOT_PERMITTED"):
        return exceptions.TransferFailed(
            image_id, f"Image {image_id} could not be {done}: {detail}"
        )
    return exceptions.UnfitHost(
        f"Image {image_id} could not be {done} by the dom0 plugin glance: {exc}"
    )
