# SPDX-License-Identifier: Apache-2.0
"""Kernels and ramdisks in dom0, from which guests without firmware are started.

The dom0 plugin ``kernel`` keeps them in the folder that the host's toolstack accepts.
A server has files of its own, named by a UUID; one named by an image's id is kept for
the next server. They are links to one file, so that a server costs dom0 no room.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from oslo_concurrency import lockutils
from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import plain
from xenapi_driver.images.cache import OwnDisk
from xenapi_driver.images.repeating import until_moved
from xenapi_driver.images.source import ImageSource
from xenapi_driver.xapi import errors, plugins, vdi
from xenapi_driver.xapi.client import Client
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

PLUGIN = "kernel"
# Where the plugin puts files: by today's toolstacks, and by those before 24.19.
FOLDERS = ("/var/lib/xcp/guest", "/boot/guest")

# Glance's disk_format of a file by what it is for; plain bytes are raw as well.
FORMATS = {"kernel": "aki", "ramdisk": "ari"}

# The plugin's files have UUIDs for names; what an operator put there has not.
_NAME = r"/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWN = re.compile(f"(?:{'|'.join(FOLDERS)}){_NAME}")
# Longer than any file is kept: only what killed calls left is looked for.
_FOR_EVER = 10**9  # seconds
# Before each further attempt after a call that was cut or killed. The plugin's work
# can be done twice: the second call finds it done, or does the same again.
_PAUSES = (0.5, 2.0)  # seconds
_UNCERTAIN = (
    errors.ConnectionLost,
    errors.OutcomeUnknown,
    errors.PluginFailure,
    errors.TaskLost,
)


@dataclass(frozen=True)
class BootImages:
    """The images that a server is started from, beside that of its root disk.

    :ivar arguments: the kernel's command line
    """

    kernel_id: str
    ramdisk_id: str | None = None
    arguments: str = ""


class Kernels:
    """The kernels and ramdisks of one host; safe to call from many threads."""

    def __init__(
        self, home: Home, most_bytes: int, keep: bool = True, attempts: int = 1
    ) -> None:
        """:param most_bytes: of one file (``max_kernel_ramdisk_size``)
        :param keep: whether to keep files for the next server
        :param attempts: to read an image
        """
        self._home = home
        self._attempts = attempts
        self._most_bytes = most_bytes
        self._keep = keep

    def give(
        self,
        kind: str,
        image_id: str,
        open_image: Callable[[], ImageSource],
        carrier: OwnDisk,
    ) -> str:
        """Make a file of the image for one server; return its path in dom0.

        However many builds ask for an image at once, one fetches it. On a failure
        there is no file and no disk.

        :param kind: ``kernel`` or ``ramdisk``
        :param open_image: called when no file is kept for the image
        :param carrier: name and keys of the disk through which a file comes
        :raises exceptions.ImageError: one of its kinds
        :raises exceptions.UnfitHost: dom0 cannot keep it
        """
        if not self._keep:
            return self._fetched(kind, open_image(), carrier)
        with lockutils.lock(f"xenapi-{PLUGIN}-{image_id}"):
            path = self._linked(image_id)
            return path or self._fetched(kind, open_image(), carrier)

    def _linked(self, image_id: str) -> str:
        """Return a new file for a server, "" where none is kept for the image."""
        name = str(uuid4())
        request = {"cached_image": image_id, "new_image_uuid": name}
        try:
            return str(self._call("create_kernel_ramdisk", request, image_id))
        except BaseException:
            self._clean_up(name)
            raise

    def _fetched(self, kind: str, source: ImageSource, carrier: OwnDisk) -> str:
        self._check(kind, source)
        disk = until_moved(
            self._attempts,
            lambda: plain.write(
                self._home, source, name=carrier.name, keys=carrier.keys
            ),
        )
        request = {
            "vdi_ref": disk.ref,
            "image_size": source.size,
            "cached_image": source.image_id if self._keep else None,
        }
        try:
            path = str(self._call("copy_vdi", request, source.image_id, long=True))
            self._drop(disk.ref)
            return path
        except BaseException:
            self._clean_up(disk.uuid, disk.ref)
            raise

    def _check(self, kind: str, source: ImageSource) -> None:
        """Refuse, before a byte is written, what is no such file or too large."""
        wanted = FORMATS[kind]
        if source.disk_format not in (wanted, "raw"):
            raise exceptions.ImageUnusable(
                source.image_id,
                f"Image {source.image_id}, the server's {kind}, has disk_format "
                f"{source.disk_format}: it must be {wanted}.",
            )
        if source.size > self._most_bytes:
            raise exceptions.ImageTooLarge(
                source.image_id,
                f"Image {source.image_id}, the server's {kind}, has {source.size} "
                f"bytes, more than the {self._most_bytes} of [xenserver] "
                "max_kernel_ramdisk_size: use a smaller one, or raise the option.",
            )

    def _call(
        self, fn: str, request: dict[str, Any], image_id: str, long: bool = False
    ) -> Any:
        try:
            return _call(self._home.session, fn, request, long)
        except errors.PluginError as exc:
            raise self._refused(image_id, exc) from exc

    def _refused(
        self, image_id: str, exc: errors.PluginError
    ) -> exceptions.UnfitHost:
        host, detail = self._home.host.hostname, " ".join(exc.params)
        if exc.code == "NO_SPACE":
            return exceptions.UnfitHost(
                f"Dom0 of host {host} has no room for image {image_id} in {detail}",
                "remove kernels that no server uses, or mount a folder of an SR there",
            )
        return exceptions.UnfitHost(
            f"Dom0 of host {host} cannot keep image {image_id}: {detail}"
        )

    def _drop(self, ref: str) -> None:
        """Destroy the disk through which a file came."""
        try:
            vdi.destroy(self._home.session, ref)
        except errors.XapiFailure:
            # A call that was killed left it plugged into dom0.
            sweep(self._home.session, _FOR_EVER)
            vdi.destroy(self._home.session, ref)

    def _clean_up(self, name: str, ref: str | None = None) -> None:
        """Remove what a failure left. The caller raises what came first."""
        try:
            remove(self._home.session, [f"{folder}/{name}" for folder in FOLDERS])
            if ref is not None:
                self._drop(ref)
        except errors.XapiError as exc:
            LOG.warning("A kernel or ramdisk may be left as %(name)s: %(reason)s",
                        {"name": name, "reason": exc})  # fmt: skip


def _call(
    session: Client, fn: str, request: dict[str, Any], long: bool = False
) -> Any:
    """Call the plugin; again where the answer was lost or a signal ended it."""
    for pause in (*_PAUSES, None):
        try:
            return plugins.call(session, PLUGIN, fn, request, long=long)
        except errors.PluginError as exc:
            if exc.code not in plugins.RETRYABLE or pause is None:
                raise
            reason: errors.XapiError = exc
        except _UNCERTAIN as exc:
            if pause is None:
                raise
            reason = exc
        LOG.warning("Dom0 did not say how %(fn)s went, it is called again: %(reason)s",
                    {"fn": fn, "reason": reason})  # fmt: skip
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def remove(session: Client, paths: Iterable[str]) -> None:
    """Remove files of a server from dom0; what is gone, or not ours, is left alone.

    :param paths: two at most, such as a VM's ``PV_kernel`` and ``PV_ramdisk``
    :raises errors.XapiError: they may still be there
    """
    own = [path for path in paths if _OWN.fullmatch(path)]
    if own:
        names = ("kernel_file", "ramdisk_file")
        request = dict(zip(names, own, strict=False))
        _call(session, "remove_kernel_ramdisk", request)


def sweep(session: Client, older_than: int) -> list[str]:
    """Remove files that no VM names and nobody used for a while; return their paths.

    Those that are kept for an image are among them. Disks that killed calls left
    plugged into dom0 are unplugged.

    :param older_than: seconds; a build that is under way has its files for a moment
        before its VM names them
    :raises errors.XapiError: the plugin refused, or the host
    """
    request = {"older_than": older_than, "remove": True}
    answer = _call(session, "left_overs", request, long=True)
    return [str(file["path"]) for file in answer["files"] if file["removed"]]
