# SPDX-License-Identifier: Apache-2.0
"""Build a server: from an image to a running VM, or to nothing at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nova.virt import configdrive
from oslo_log import log as logging

from xenapi_driver import exceptions, flow
from xenapi_driver.images import cache as image_cache
from xenapi_driver.images import direct_vhd
from xenapi_driver.images import source as image_source
from xenapi_driver.steps import disks, vifs
from xenapi_driver.steps import vm as vm_steps
from xenapi_driver.steps.build import Built, Port, Server
from xenapi_driver.xapi import host, vdi, vm
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)


def refuse_unsupported(instance: Any, injected_files: list, volumes: list) -> None:
    """Say what this release cannot build yet, before anything is touched.

    :raises exceptions.NotSupportedYet:
    """
    wishes = {
        # By the server's own wish, the image's, or [DEFAULT] force_config_drive.
        "a config drive": bool(configdrive.required_by(instance)),
        "booting from a volume": bool(volumes) or not instance.image_ref,
        "an ephemeral disk": bool(instance.flavor.ephemeral_gb),
        "a swap disk": bool(instance.flavor.swap),
        "injected files": bool(injected_files),
        "PCI devices": bool(instance.pci_devices and instance.pci_devices.objects),
    }
    asked = [name for name, wished in wishes.items() if wished]
    if asked:
        raise exceptions.NotSupportedYet(
            f"This release of xenapi-driver does not support {', '.join(asked)}: "
            "build the server without."
        )


def server_of(instance: Any, image_meta: Any, network_info: Any) -> Server:
    """Return what the steps need to know of Nova's instance."""
    flavor = instance.flavor
    return Server(
        uuid=instance.uuid,
        name=instance.name,
        image_id=instance.image_ref,
        memory_mb=flavor.memory_mb,
        vcpus=flavor.vcpus,
        root_gb=flavor.root_gb,
        vcpu_weight=flavor.vcpu_weight,
        os_type=instance.os_type,
        firmware=image_meta.properties.get("hw_firmware_type") or "bios",
        ports=tuple(_port(vif) for vif in network_info or ()),
    )


def _port(vif: dict) -> Port:
    if vif["type"] in ("unbound", "binding_failed"):
        raise exceptions.NetworkingFailed(
            f"Neutron could not bind port {vif['id']} (vif_type {vif['type']}): look "
            "at its Open vSwitch agent for this host."
        )
    mtu = vif["network"].get_meta("mtu") or 1500
    return Port(port_id=vif["id"], mac=vif["address"], mtu=int(mtu))


class Spawn:
    """Builds servers in one place; safe to call from many threads."""

    def __init__(self, home: Home, keep: str, rules: direct_vhd.TransferRules) -> None:
        """:param keep: which images to cache: ``all``, ``some`` or ``none``"""
        self._home = home
        self._keep = keep
        self._rules = rules
        self._cache = image_cache.ImageCache(home)

    def __call__(
        self,
        context: Any,
        server: Server,
        until_plugged: AbstractContextManager | None,
        power_on: bool = True,
        cache_wanted: bool = False,
    ) -> None:
        """Build ``server``; on any failure the host is as it was before.

        :param until_plugged: blocks at its end until Neutron has wired the ports;
            None where there is nothing to wait for
        :param cache_wanted: the image asks to be cached (``cache_in_nova``)
        :raises exceptions.DriverError: refused, or failed for a known reason
        :raises errors.XapiError: the host refused a step
        """
        if vm.name_is_taken(self._home.session, server.name):
            raise exceptions.ServerExists(server.name)
        kept = self._keep == "all" or (self._keep == "some" and cache_wanted)
        built = Built()
        steps: list[flow.Step[Built]] = [
            disks.MakeRootDisk(
                self._home,
                server,
                self._fetcher(context, server),
                self._cache if kept else None,
            ),
            vm_steps.CreateVm(self._home, server),
            vm_steps.AttachRootDisk(self._home),
            vifs.CreateVifs(self._home, server),
        ]
        if power_on:
            waiting = until_plugged or contextlib.nullcontext()
            steps.append(vm_steps.StartPaused(self._home, waiting))
            steps.append(vm_steps.Unpause(self._home))
        flow.run_flow(steps, built)

    def _fetcher(self, context: Any, server: Server) -> Callable[[], vdi.VdiRecord]:
        """Return what downloads the image, after a look at the host's memory."""

        def fetch() -> vdi.VdiRecord:
            self._check_memory(server)
            source = image_source.open_image(context, server.image_id)
            return direct_vhd.fetch(self._home, source, self._rules, server.root_bytes)

        return fetch

    def _check_memory(self, server: Server) -> None:
        """Refuse before a download what the host could not start after it."""
        free = host.free_memory(self._home.session, self._home.host.ref)
        if free < server.memory_bytes:
            raise exceptions.NotEnoughMemory(
                f"Host {self._home.host.hostname} has {free // 2**20} MiB of memory "
                f"free, and {server.name} needs {server.memory_mb} MiB."
            )
