# SPDX-License-Identifier: Apache-2.0
"""The compute driver that nova-compute loads as ``xenapi.XenAPIDriver``.

Each method unpacks Nova's arguments, calls one operation and maps its errors to
Nova's (``ops/nova_errors.py``). What is not here yet raises NotImplementedError, from
Nova's base class; the support matrix lists it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import nova.conf
from nova import exception as nova_exception
from nova.compute import power_state
from nova.virt import driver, hardware
from oslo_log import log as logging

from xenapi_driver import conf as options
from xenapi_driver import exceptions
from xenapi_driver.images import fetching, handlers
from xenapi_driver.ops import (
    cpu_traits,
    destroy,
    device_names,
    fitness,
    guests,
    image_cache,
    left_overs,
    lifecycle,
    metadata_drive,
    nova_errors,
    plugging,
    power,
    resources,
    root_content,
    snapshot,
    spawn,
    startup,
)
from xenapi_driver.steps import device_tags, server
from xenapi_driver.xapi import errors, vm
from xenapi_driver.xapi.coalescing import Looks
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.session import Session

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

POWER_STATES = {
    "Halted": power_state.SHUTDOWN,
    "Running": power_state.RUNNING,
    "Paused": power_state.PAUSED,
    "Suspended": power_state.SUSPENDED,
}


def _tell_progress(instance: Any, percent: int) -> None:
    """Show users how far the build is; it ends here if the server was deleted."""
    instance.progress = percent
    instance.save()


class XenAPIDriver(device_names.DiskNames, driver.ComputeDriver):
    """Drives one XAPI host."""

    capabilities = {
        **driver.ComputeDriver.capabilities,
        "has_imagecache": True,
        "supports_device_tagging": True,
        "supports_image_type_vhd": True,
        "supports_image_type_raw": True,
        "supports_trusted_certs": True,
    }

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        options.register_opts(CONF)
        self._session: Session | None = None
        self._home: Home | None = None
        # As it was at start-up: Nova's name of a node never changes.
        self._nodename = ""
        self._lifecycle: lifecycle.Lifecycle | None = None
        self._spawn: spawn.Spawn | None = None
        self._snapshot: snapshot.SnapshotImages | None = None
        self._guests: guests.Guests  # as soon as there is a home
        self._keeper: image_cache.Keeper | None = None
        self._reserve_warned = False

    @property
    def home(self) -> Home:
        """Where servers live.

        :raises VirtDriverNotReady: before ``init_host``
        """
        if self._home is None:
            raise nova_exception.VirtDriverNotReady()
        return self._home

    # The service and its host

    def init_host(self, host: str) -> None:
        """Log in and check the host; refuse to start with one clear sentence."""
        try:
            fitness.check_options(CONF)
            options.warn_of_ignored(CONF)
            self._session = startup.open_session(CONF, host)
            self._home = startup.open_home(CONF, self._session)
            self._begin(self._home, host)
        except (exceptions.DriverError, errors.XapiError) as exc:
            self.cleanup_host(host)
            LOG.debug("nova-compute does not start.", exc_info=True)
            # nova-compute logs the exception with all that it came from, in which
            # an operator would not find the one sentence.
            raise nova_exception.InvalidConfiguration(str(exc)) from None

    def _begin(self, home: Home, service_host: str) -> None:
        """Work with a host that is fit, and listen to what befalls its servers."""
        self._nodename = home.host.hostname
        opts = CONF.xenserver
        rules = startup.transfer_rules(CONF)
        place = startup.place(CONF, home.session)
        handler = handlers.choose(opts.image_handler, home, rules, place)
        upload = opts.image_upload_handler or opts.image_handler
        self._snapshot = snapshot.SnapshotImages(
            home,
            handlers.choose(upload, home, rules, place),
            Looks(opts.vhd_coalesce_poll_interval, opts.vhd_coalesce_max_attempts),
        )
        self._guests = guests.Guests(CONF, home, startup.servers_cpus(home.host))
        self.capabilities = {
            **type(self).capabilities,
            **fetching.image_types(handler),
            "supports_secure_boot": self._guests.secure_boot,
        }
        boot = spawn.boot_rules(CONF)
        self._spawn = spawn.Spawn(home, opts.cache_images, handler, boot, place)
        self._keeper = image_cache.Keeper(home, self._spawn.cache, handler)
        image_cache.warn_of_place(CONF.instances_path)
        left_overs.clear(
            home, functools.partial(left_overs.never_ran, service_host=service_host)
        )
        LOG.info(
            "Manages host %(host)s (%(uuid)s); disks go to SR %(sr)s (%(name)s).",
            {
                "host": self._nodename,
                "uuid": home.host.uuid,
                "sr": home.sr.uuid,
                "name": home.sr.name_label,
            },
        )
        self._lifecycle = lifecycle.Lifecycle(
            home.session,
            self.emit_event,
            functools.partial(lifecycle.nova_moves, service_host=service_host),
        )
        self._lifecycle.start()

    def cleanup_host(self, host: str) -> None:
        """End the thread that tells Nova of changes, and log out."""
        told, self._lifecycle = self._lifecycle, None
        if told is not None:
            told.stop()
        session, self._session = self._session, None
        self._home = self._spawn = self._snapshot = self._keeper = None
        if session is not None:
            session.logout()

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        if self._home is None:
            raise nova_exception.VirtDriverNotReady()
        return [self._nodename]

    def node_is_available(self, nodename: str) -> bool:
        return self._home is not None and nodename == self._nodename

    def _resources(self) -> resources.Resources:
        """What the host has now, from records; no request."""
        home = self.home
        session = home.session
        with nova_errors.translated(None):
            return resources.resources(
                session.records, session.host_ref, home.sr_uuid, self._guests.vcpus
            )

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        found = self._resources()
        self._warn_of_small_reserve(found.memory_mb_apart)
        booted = found.booted
        return {
            "vcpus": found.vcpus,
            "vcpus_used": found.vcpus_used,
            "memory_mb": found.memory_mb,
            "memory_mb_used": found.memory_mb_used,
            "local_gb": found.local_gb,
            "local_gb_used": found.local_gb_used,
            "disk_available_least": found.disk_available_least,
            "cpu_info": json.dumps(found.cpu_info),
            "numa_topology": None,
            "hypervisor_type": "XenServer",
            "hypervisor_version": found.hypervisor_version,
            "hypervisor_hostname": self._nodename,
            "supported_instances": list(found.supported),
            "pci_passthrough_devices": json.dumps(found.pci_devices),
            # Without the key, each os-hypervisors request asks this service.
            "stats": {"uptime": None if booted is None else resources.uptime(booted)},
        }

    def _warn_of_small_reserve(self, apart_mb: int) -> None:
        """Warn once, when it is seen first."""
        problem = fitness.small_reserve(apart_mb, CONF.reserved_host_memory_mb)
        if problem is not None and not self._reserve_warned:
            self._reserve_warned = True
            LOG.warning("%s", problem)

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        """Report VCPU, MEMORY_MB and DISK_GB, and what guests can have as traits."""
        found = self._resources()
        classes = resources.inventories(
            found,
            resources.Reserved(
                cpus=CONF.reserved_host_cpus,
                memory_mb=CONF.reserved_host_memory_mb,
                disk_gb=self._get_reserved_host_disk_gb_from_config(),
            ),
            self._get_allocation_ratios(provider_tree.data(nodename).inventory),
        )
        if provider_tree.has_sharing_provider("DISK_GB"):
            classes.pop("DISK_GB", None)
        classes.update(self._guests.inventory())
        provider_tree.update_inventory(nodename, classes)
        traits = self._guests.traits() | cpu_traits.traits(
            found.featuresets,
            found.cpu_info["topology"]["threads"],
            found.architectures,
        )
        owned = cpu_traits.OWNED | guests.OWNED
        provider_tree.add_traits(nodename, *traits)
        provider_tree.remove_traits(nodename, *(owned - traits))

    def get_host_uptime(self) -> str:
        """Tell since when the host is up, in the style of uptime(1)."""
        booted = self._resources().booted
        if booted is None:
            raise NotImplementedError()
        return resources.uptime(booted)

    def get_host_ip_addr(self) -> str:
        return CONF.my_ip

    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        raise NotImplementedError()

    # Queries

    def get_info(self, instance: Any, use_cache: bool = True) -> hardware.InstanceInfo:
        # Whatever keeps the host from being asked: the server is not gone for that.
        with nova_errors.translated(instance, nova_exception.HypervisorUnavailable):
            record = power.find(self.home, instance.name, instance.uuid)
        return hardware.InstanceInfo(
            state=POWER_STATES[record.power_state],
            internal_id=str(record.domid) if record.domid >= 0 else None,
        )

    def list_instances(self) -> list[str]:
        return [record.name_label for record in self._servers()]

    def list_instance_uuids(self) -> list[str]:
        return [record.nova_uuid for record in self._servers()]

    def _servers(self) -> list[vm.VmRecord]:
        """Return our host's servers.

        :raises HypervisorUnavailable: the host is not heard, so that nobody knows
        """
        try:
            return vm.ours(self.home.session)
        except errors.XapiError as exc:
            raise nova_exception.HypervisorUnavailable(str(exc)) from exc

    # Build and delete

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: list,
        admin_password: str | None,
        allocations: dict,
        network_info: Any = None,
        block_device_info: dict | None = None,
        power_on: bool = True,
        accel_info: list | None = None,
    ) -> None:
        if self._spawn is None:
            raise nova_exception.VirtDriverNotReady()
        volumes = driver.block_device_info_get_mapping(block_device_info)
        with nova_errors.translated(instance, nova_errors.building):
            drive = metadata_drive.content(
                CONF, instance, injected_files, admin_password, network_info
            )
            spawn.refuse_unsupported(instance, injected_files, volumes, bool(drive))
            disks = server.disks_of(
                instance,
                image_meta,
                block_device_info,
                CONF.default_ephemeral_format,
            )
            plugged = functools.partial(
                plugging.until_plugged,
                self.virtapi,
                instance,
                network_info,
                CONF.vif_plugging_timeout,
                CONF.vif_plugging_is_fatal,
            )
            guest = self._guests.of(instance, image_meta, allocations)
            self._spawn(
                server.server_of(instance, image_meta, network_info, guest, disks),
                spawn.Request(
                    context,
                    plugged,
                    functools.partial(_tell_progress, instance),
                    power_on=power_on,
                    cache_wanted=bool(image_meta.properties.get("img_cache_in_nova")),
                    trusted_certs=instance.trusted_certs,
                    config_drive=drive,
                    root_changes=root_content.changes(CONF, instance, network_info),
                    note_tags=functools.partial(
                        device_tags.note, context, instance, network_info
                    ),
                ),
            )

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: dict | None = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        with nova_errors.translated(instance):
            destroy.destroy(self.home, instance.name, instance.uuid, destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: dict | None = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """The VM's VIFs and VBDs went with it, so that only disks can be left."""
        if destroy_disks:
            self.destroy(context, instance, network_info, block_device_info)

    # Images of servers

    def snapshot(
        self,
        context: Any,
        instance: Any,
        image_id: str,
        update_task_state: Callable[..., object],
    ) -> None:
        """Fill the image, which Nova has made, with the server's root disk."""
        if self._snapshot is None:
            raise nova_exception.VirtDriverNotReady()
        opts = CONF.xenserver
        with nova_errors.translated(instance):
            subject = snapshot.subject_of(
                instance, opts.default_os_type, opts.image_compression_level
            )
            self._snapshot(context, subject, image_id, update_task_state)

    def failed_spawn_cleanup(self, instance: Any) -> None:
        """Remove disks of a server that has no VM; a VM of it is left alone."""
        with nova_errors.translated(instance):
            destroy.remove_orphans(self.home, instance.name, instance.uuid)

    def soft_delete(self, instance: Any) -> None:
        with nova_errors.translated(instance, nova_errors.stopping):
            power.soft_delete(self.home, instance.name, instance.uuid)

    def restore(self, instance: Any) -> None:
        with nova_errors.translated(instance, nova_errors.starting):
            power.restore(self.home, instance.name, instance.uuid)

    # The image cache

    def manage_image_cache(self, context: Any, all_instances: Any) -> None:
        """Remove images that nothing has used for long, by ``[image_cache]``."""
        if self._keeper is None:
            raise nova_exception.VirtDriverNotReady()
        ageing = image_cache.Ageing(
            CONF.image_cache.remove_unused_base_images,
            CONF.image_cache.remove_unused_original_minimum_age_seconds,
        )
        with nova_errors.translated(None):
            self._keeper(ageing, image_cache.images_of(all_instances))

    def cache_image(self, context: Any, image_id: str) -> bool:
        """Fetch an image ahead of builds; False: it is cached already.

        :raises NotImplementedError: images of its kind, or no images, are cached
        """
        if self._keeper is None:
            raise nova_exception.VirtDriverNotReady()
        if CONF.xenserver.cache_images == "none":
            raise NotImplementedError()
        try:
            return self._keeper.warm(context, image_id)
        except exceptions.NotSupportedYet as exc:
            raise NotImplementedError() from exc

    # Power

    def power_off(
        self, instance: Any, timeout: int = 0, retry_interval: int = 0
    ) -> None:
        with nova_errors.translated(instance, nova_errors.stopping):
            power.power_off(self.home, instance.name, instance.uuid, timeout)

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: dict | None = None,
        accel_info: list | None = None,
        share_info: Any = None,
    ) -> None:
        with nova_errors.translated(instance, nova_errors.starting):
            power.power_on(self.home, instance.name, instance.uuid)

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: dict | None = None,
        bad_volumes_callback: Any = None,
        accel_info: list | None = None,
        share_info: Any = None,
    ) -> None:
        with nova_errors.translated(instance):
            power.reboot(
                self.home, instance.name, instance.uuid, hard=reboot_type == "HARD"
            )

    def pause(self, instance: Any) -> None:
        with nova_errors.translated(instance):
            power.pause(self.home, instance.name, instance.uuid)

    def unpause(self, instance: Any) -> None:
        with nova_errors.translated(instance):
            power.unpause(self.home, instance.name, instance.uuid)

    # Networks: XAPI plugs a VIF whenever its VM starts.

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Do nothing: the ports are wired as the VM starts, and stay so."""

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Do nothing: the ports go with the VM."""
