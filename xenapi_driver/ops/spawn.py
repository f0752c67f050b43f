# SPDX-License-Identifier: Apache-2.0
"""Build a server: from an image to a running VM, or to nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging

from xenapi_driver import exceptions, flow
from xenapi_driver.images import cache as image_cache
from xenapi_driver.images import fetching, kinds
from xenapi_driver.images import source as image_source
from xenapi_driver.images.handlers import Handler
from xenapi_driver.images.kernels import Kernels
from xenapi_driver.steps import (
    config_drive,
    device_tags,
    devices,
    disks,
    further_disks,
    iso,
    root_disk,
    vifs,
    xenstore_data,
)
from xenapi_driver.steps import vm as vm_steps
from xenapi_driver.steps.build import Built, Server
from xenapi_driver.steps.kernels import CopyBootFiles
from xenapi_driver.xapi import memory, vdi, vm
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.plugged import Place

LOG = logging.getLogger(__name__)

# Of the whole, what fetching the image counts for: it takes the longest by far.
_FETCH_PERCENT = 60


def refuse_unsupported(
    instance: Any, injected_files: list, volumes: list, has_config_drive: bool
) -> None:
    """Say what this release cannot build yet, before anything is touched.

    :raises exceptions.NotSupportedYet:
    """
    wishes = {
        "booting from a volume": bool(volumes) or not instance.image_ref,
        "injected files without a config drive": bool(injected_files)
        and not has_config_drive,
    }
    asked = [name for name, wished in wishes.items() if wished]
    if asked:
        raise exceptions.NotSupportedYet(
            f"This release of xenapi-driver does not support {', '.join(asked)}: "
            "build the server without."
        )


class Progress:
    """Turns steps and the image's way in into a percentage that only grows.

    :param tell: called with each new percentage, 1 to 100
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._told = 0

    def fetched(self, share: float) -> None:
        """Take how much of the image is in, 0.0 to 1.0; tells each tenth."""
        self._reach(int(share * 10) * _FETCH_PERCENT // 10)

    def step_done(self, done: int, total: int) -> None:
        """Take that a step is done; the first is the image's."""
        rest = (100 - _FETCH_PERCENT) * (done - 1) // max(total - 1, 1)
        self._reach(_FETCH_PERCENT + rest)

    def _reach(self, percent: int) -> None:
        if percent > self._told:
            self._told = percent
            self._tell(percent)


def _nothing() -> None:
    """Do what a build without a wish does."""


@dataclass(frozen=True)
class Request:
    """One build, beside the server itself.

    :ivar context: Nova's request context
    :ivar until_plugged: returns what blocks at its end until Neutron has wired the
        ports, or None where there is nothing to wait for
    :ivar tell: called with the percentage that is done
    :ivar cache_wanted: the image asks to be cached (``cache_in_nova``)
    :ivar trusted_certs: of the server, for the check of the image's signature
    :ivar config_drive: what makes it, None for a server without
    :ivar note_tags: lets Nova's metadata have the tags of the server's devices
    :ivar root_changes: to the root disk's content, in order
    """

    context: Any
    until_plugged: Callable[[], AbstractContextManager | None]
    tell: Callable[[int], None]
    power_on: bool = True
    cache_wanted: bool = False
    trusted_certs: Any = None
    config_drive: config_drive.Content | None = None
    note_tags: Callable[[], None] = _nothing
    root_changes: tuple[root_disk.Change, ...] = ()


@dataclass(frozen=True)
class BootRules:
    """What an operator says of what servers boot from.

    :ivar most_kernel_bytes: of a kernel or ramdisk that is copied to dom0
    :ivar cow: disks share the blocks of their cached image (``use_cow_images``)
    """

    ipxe: iso.IpxeRules
    most_kernel_bytes: int
    cow: bool = True


def boot_rules(conf: cfg.ConfigOpts) -> BootRules:
    """Return what the options say."""
    opts = conf.xenserver
    return BootRules(
        iso.IpxeRules(
            network=opts.ipxe_network_name,
            menu_url=opts.ipxe_boot_menu_url,
            maker=opts.ipxe_mkisofs_cmd,
        ),
        opts.max_kernel_ramdisk_size,
        conf.use_cow_images,
    )


class Spawn:
    """Builds servers in one place; safe to call from many threads."""

    def __init__(
        self,
        home: Home,
        keep: str,
        handler: Handler,
        boot: BootRules,
        place: Place | None = None,
    ) -> None:
        """:param keep: which images to cache: ``all``, ``some`` or ``none``
        :param place: where disks are plugged, None where they cannot be
        """
        self._home = home
        self._keep = keep
        self._handler = handler
        self._ipxe = boot.ipxe
        self._kernels = Kernels(
            home, boot.most_kernel_bytes, keep != "none", handler.rules.attempts
        )
        self._place = place
        self.cache = image_cache.ImageCache(home, boot.cow)

    def __call__(self, server: Server, request: Request) -> None:
        """Build ``server``; on any failure the host is as it was before.

        :raises exceptions.DriverError: refused, or failed for a known reason
        :raises errors.XapiError: the host refused a step
        """
        if vm.name_is_taken(self._home.session, server.name):
            raise exceptions.ServerExists(server.name)
        if request.power_on:
            self._check_memory(server)
        progress = Progress(request.tell)
        steps = [
            *self._media(server, request, progress),
            further_disks.MakeFurtherDisks(self._home, server),
            device_tags.NoteDeviceTags(request.note_tags),
            *self._config_drive(server, request),
            vm_steps.CreateVm(self._home, server),
            vm_steps.AttachDisks(self._home),
            vifs.CreateVifs(self._home, server),
        ]
        if server.guest.vgpu is not None:
            steps.append(devices.CreateVgpu(self._home, server))
        if server.guest.vtpm:
            steps.append(devices.CreateVtpm(self._home))
        if request.power_on:
            starting = vm_steps.StartPaused(self._home, request.until_plugged)
            steps.append(starting)
            if xenstore_data.HOSTNAME_KEY in server.guest.xenstore_data:
                steps.append(vm_steps.ForgetHostname(self._home))
            steps.append(vm_steps.Unpause(self._home))
        flow.run_flow(steps, Built(), progress.step_done)

    def _config_drive(
        self, server: Server, request: Request
    ) -> list[flow.Step[Built]]:
        if request.config_drive is None:
            return []
        content = request.config_drive
        return [config_drive.MakeConfigDrive(self._home, server, content)]

    def _media(
        self, server: Server, request: Request, progress: Progress
    ) -> list[flow.Step[Built]]:
        """Return the steps that make what the server boots from."""

        def open_image(image_id: str = server.image_id) -> image_source.ImageSource:
            return image_source.open_image(
                request.context,
                image_id,
                request.trusted_certs,
                self._handler.rules.signatures,
            )

        steps: list[flow.Step[Built]] = []
        if server.image_kind != kinds.ISO:
            steps.append(self._root_disk(server, request, open_image, progress))
            if request.root_changes:
                steps.append(self._changed_root(server, request))
        else:
            steps.append(self._cd(server, open_image, progress))
            if server.ipxe:
                steps.append(iso.InjectIpxe(self._home, server, self._ipxe))
        if server.boot is not None:
            steps.append(CopyBootFiles(self._home, self._kernels, server, open_image))
        return steps

    def _changed_root(self, server: Server, request: Request) -> flow.Step[Built]:
        return root_disk.ChangeRootDisk(
            self._home, server, self._place, request.root_changes
        )

    def _cd(
        self,
        server: Server,
        open_image: Callable[[], image_source.ImageSource],
        progress: Progress,
    ) -> flow.Step[Built]:
        attempts = self._handler.rules.attempts
        return iso.FetchCd(self._home, server, open_image, attempts, progress.fetched)

    def _root_disk(
        self,
        server: Server,
        request: Request,
        open_image: Callable[[], image_source.ImageSource],
        progress: Progress,
    ) -> flow.Step[Built]:
        """Return the step that makes the root disk of an image's kind."""

        def fetch() -> vdi.VdiRecord:
            return fetching.fetch(
                self._handler, open_image(), server.root_bytes, progress.fetched
            )

        return disks.MakeRootDisk(
            self._home, server, fetch, self._cache_of(server, request)
        )

    def _cache_of(
        self, server: Server, request: Request
    ) -> image_cache.ImageCache | None:
        """Return the cache where the image is kept in it, or is there by a wish."""
        wanted = request.cache_wanted or self.cache.has(server.image_id)
        kept = self._keep == "all" or (self._keep == "some" and wanted)
        return self.cache if kept else None

    def _check_memory(self, server: Server) -> None:
        """Refuse before a download what the host could not start after it."""
        session, host = self._home.session, self._home.host
        free = memory.free(session.records, host)
        if free is not None and free < server.memory_bytes:
            raise exceptions.NotEnoughMemory(
                f"Host {host.hostname} has {free // 2**20} MiB of memory free, and "
                f"{server.name} needs {server.memory_mb} MiB."
            )
