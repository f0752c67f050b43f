# SPDX-License-Identifier: Apache-2.0
"""Steps that make a server's disks."""

from __future__ import annotations

from collections.abc import Callable

from xenapi_driver import flow
from xenapi_driver.images import fetching
from xenapi_driver.images.cache import ImageCache, OwnDisk
from xenapi_driver.steps.build import (
    DISK_TYPE_KEY,
    INSTANCE_KEY,
    ROOT_DEVICE,
    Attached,
    Built,
    Server,
)
from xenapi_driver.xapi import vdi
from xenapi_driver.xapi.home import Home


class MakeRootDisk(flow.Step[Built]):
    """Clone the cached image, or take the fetched one; grow it to the flavor.

    Undo destroys the disk; the cache entry stays for the next build.
    """

    name = "root-disk"

    def __init__(
        self,
        home: Home,
        server: Server,
        fetch: Callable[[], vdi.VdiRecord],
        cache: ImageCache | None,
    ) -> None:
        """:param cache: None where this image is not to be kept"""
        self._home = home
        self._server = server
        self._fetch = fetch
        self._cache = cache

    def run(self, state: Built) -> None:
        session, server = self._home.session, self._server
        keys = {INSTANCE_KEY: server.uuid, DISK_TYPE_KEY: "root"}
        if self._cache is None:
            image = self._fetch()
            root = self._take(state, image.ref)
            self._check_size(image)
            # With a name it counts as complete, so that comes last.
            vdi.set_other_config(session, image.ref, keys)
            vdi.set_name_label(session, image.ref, server.name)
        else:
            ref, image = self._cache.clone(
                server.image_id,
                self._fetch,
                self._check_size,
                OwnDisk(server.name, keys),
            )
            root = self._take(state, ref)
        if server.root_bytes is not None and server.root_bytes > image.virtual_size:
            vdi.resize(session, root, server.root_bytes)

    @staticmethod
    def _take(state: Built, ref: str) -> str:
        state.disks[ROOT_DEVICE] = Attached(ref, ROOT_DEVICE, bootable=True)
        return ref

    def undo(self, state: Built) -> None:
        root = state.disks.get(ROOT_DEVICE)
        if root is not None and root.vdi is not None:
            vdi.destroy(self._home.session, root.vdi)
            del state.disks[ROOT_DEVICE]

    def _check_size(self, image: vdi.VdiRecord) -> None:
        limit = self._server.root_bytes
        if limit is not None and image.virtual_size > limit:
            raise fetching.too_large(self._server.image_id, image.virtual_size, limit)
