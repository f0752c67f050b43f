# SPDX-License-Identifier: Apache-2.0
"""Step that brings a server's kernel and ramdisk into dom0."""

from __future__ import annotations

from collections.abc import Callable

from xenapi_driver import flow
from xenapi_driver.images import kernels
from xenapi_driver.images.cache import OwnDisk
from xenapi_driver.images.source import ImageSource
from xenapi_driver.steps.build import DISK_TYPE_KEY, INSTANCE_KEY, Built, Server
from xenapi_driver.xapi.home import Home


class CopyBootFiles(flow.Step[Built]):
    """Copy kernel and ramdisk to dom0. Undo removes them; kept ones stay."""

    name = "kernel-and-ramdisk"

    def __init__(
        self,
        home: Home,
        kept: kernels.Kernels,
        server: Server,
        open_image: Callable[[str], ImageSource],
    ) -> None:
        """:param open_image: looks an image up by its id"""
        self._home = home
        self._kept = kept
        self._server = server
        self._open_image = open_image

    def run(self, state: Built) -> None:
        images = self._server.boot
        if images is None:
            return
        state.kernel = self._given("kernel", images.kernel_id)
        if images.ramdisk_id:
            state.ramdisk = self._given("ramdisk", images.ramdisk_id)

    def _given(self, kind: str, image_id: str) -> str:
        keys = {INSTANCE_KEY: self._server.uuid, DISK_TYPE_KEY: kind}
        return self._kept.give(
            kind,
            image_id,
            lambda: self._open_image(image_id),
            OwnDisk(self._server.name, keys),
        )

    def undo(self, state: Built) -> None:
        kernels.remove(self._home.session, [state.kernel, state.ramdisk])
        state.kernel = state.ramdisk = ""
