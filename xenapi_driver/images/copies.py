# SPDX-License-Identifier: Apache-2.0
"""A server's disk from a cache entry: sharing its blocks, or all its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import entries, fresh
from xenapi_driver.xapi import errors, plugins, sr, vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)

# The storage manager joined disks below the copy, or is at work: they settle soon.
UNSETTLED = ("BUSY", "IMAGE_CORRUPT", "NOT_FOUND")
_PAUSES = (0.5, 2.0, 5.0)  # seconds


@dataclass(frozen=True)
class Copies:
    """Makes copies of one SR's disks, all of them in one of two ways.

    :ivar cow: copies share the original's blocks until they are written to
        (``use_cow_images``)
    """

    home: Home
    cow: bool = True

    def make(
        self, entry: vdi.VdiRecord, progress: Callable[[float], None] | None = None
    ) -> str:
        """Copy an entry, which nobody writes to; return the new disk.

        It may carry the entry's name and keys.

        :raises HandleInvalid: the entry is gone, and nothing was made
        :raises exceptions.TransferFailed: the host's storage would not settle
        """
        session = self.home.session
        if self.cow:
            return vdi.clone(session, entry.ref)
        if self.home.sr.type == "ext" and self.home.sr_path is not None:
            return self._by_plugin(entry, progress)
        return vdi.copy(session, entry.ref, self.home.sr.ref, progress)

    def _by_plugin(
        self, entry: vdi.VdiRecord, progress: Callable[[float], None] | None
    ) -> str:
        """Have dom0 copy the files: other than by VDI.copy, no part is ever seen."""
        for pause in (*_PAUSES, None):
            try:
                current = vdi.get(self.home.session, entry.ref)
                return self._chain_copied(current, progress)
            except errors.PluginError as exc:
                if exc.code not in UNSETTLED or pause is None:
                    image = entries.image_of(entry) or entry.uuid
                    raise self._refused(image, exc) from exc
                LOG.info("Disk %(disk)s cannot be copied yet: %(why)s",
                         {"disk": entry.uuid, "why": exc})  # fmt: skip
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _chain_copied(
        self, entry: vdi.VdiRecord, progress: Callable[[float], None] | None
    ) -> str:
        session, storage = self.home.session, self.home.sr
        chain = entries.Families(vdi.in_sr(session, storage.ref)).chain(entry.uuid)
        stack = [fresh.new_uuid(self.home.host.uuid) for _ in chain]
        request = {
            "sr_path": self.home.sr_path,
            "vdi_uuids": chain,
            "uuid_stack": stack,
        }
        try:
            answer = plugins.call(
                session, "workarounds", "safe_copy_vdis", request, progress=progress
            )
            sr.scan(session, storage.ref)
            return vdi.by_uuid(session, answer["root"]["uuid"]).ref
        except errors.PluginError:
            raise  # it left nothing
        except BaseException:
            self.drop(stack)
            raise

    def drop(self, uuids: list[str]) -> None:
        """Destroy disks that dom0 may have made although we were not told so."""
        session, storage = self.home.session, self.home.sr
        try:
            sr.scan(session, storage.ref)
            for one in vdi.in_sr(session, storage.ref):
                if one.uuid in uuids and one.managed:
                    vdi.destroy(session, one.ref)
        except errors.XapiError as exc:
            # The caller raises what came first; this is only its clean-up.
            LOG.warning("A copy may be left in SR %(sr)s as one of %(all)s: %(why)s",
                        {"sr": storage.uuid, "all": ", ".join(uuids),
                         "why": exc})  # fmt: skip

    def _refused(
        self, image_id: str, exc: errors.PluginError
    ) -> exceptions.DriverError:
        detail = " ".join(exc.params)
        if exc.code == "NO_SPACE":
            return exceptions.UnfitHost(
                f"SR {self.home.sr.uuid} is too full for a copy of image {image_id}: "
                f"{detail}"
            )
        return exceptions.TransferFailed(
            image_id, f"Cached image {image_id} could not be copied in dom0: {exc}"
        )
