# SPDX-License-Identifier: Apache-2.0
"""From what flavor and image ask for to a guest, or to a refusal in words.

What the host cannot give is refused, not left out: a guest that lacks what it was
promised fails later, and nobody knows why.
"""

from __future__ import annotations

import math
from typing import Any

from nova import exception as nova_exception
from nova import objects
from nova.virt import hardware

from xenapi_driver import exceptions
from xenapi_driver.steps.guest import Guest
from xenapi_driver.xapi.release import Abilities

# By wish, the values that every guest is given anyway, or that change nothing. Image
# properties are called hw_<wish>, the flavor's extra specs hw:<wish>. What a guest does
# well without (agent channel, random numbers, pointer) is not here: it is left out.
_SERVED: dict[str, frozenset[str]] = {
    "boot_menu": frozenset(),
    # IDE until the guest's own drivers take over.
    "cdrom_bus": frozenset({"ide", "xen"}),
    "cpu_policy": frozenset({"shared"}),
    "cpu_realtime": frozenset(),
    "cpu_thread_policy": frozenset({"prefer"}),
    "disk_bus": frozenset({"ide", "xen"}),
    "emulation_architecture": frozenset(),
    "emulator_threads_policy": frozenset(),
    "ephemeral_encryption": frozenset(),
    "firmware_stateless": frozenset(),
    "floppy_bus": frozenset(),
    "hide_hypervisor_id": frozenset(),
    "locked_memory": frozenset(),
    "machine_type": frozenset({"pc"}),
    "maxphysaddr_mode": frozenset(),
    "mem_encryption": frozenset(),
    "mem_page_size": frozenset({"small", "any"}),
    "pci_numa_affinity_policy": frozenset({"legacy", "preferred"}),
    "pmem": frozenset(),
    "pmu": frozenset(),
    "redirected_usb_ports": frozenset({"0"}),
    "scsi_model": frozenset(),
    "serial_port_count": frozenset({"0", "1"}),
    "sound_model": frozenset(),
    "usb_model": frozenset(),
    "video_model": frozenset({"cirrus", "vga"}),
    # The emulated card is for guests without drivers: rtl8139, with UEFI e1000.
    "vif_model": frozenset({"netfront", "rtl8139", "e1000"}),
    "viommu_model": frozenset(),
    "virtio_packed_ring": frozenset(),
    "watchdog_action": frozenset({"disabled"}),
}
# Wishes that are refused whatever they say, by their whole names.
_FALSE = frozenset({"false", "no", "off", "0", ""})

_VGA = {"cirrus": "cirrus", "vga": "std"}
_FIRMWARES = ("bios", "uefi")
_SECURE_BOOT = {"required": "true", "optional": "auto"}
# The scheduler of Xen takes these.
_WEIGHTS = range(1, 65536)
_DEVICE_IDS = range(1, 10000)
# Microseconds; what Nova's other drivers take where the flavor says none.
_CPU_PERIOD = 100_000


def guest_of(
    instance: Any, image_meta: Any, can: Abilities, cpus: frozenset[int] = frozenset()
) -> Guest:
    """Return the guest that flavor and image describe, without its xenstore data.

    :param image_meta: Nova's ImageMeta
    :param cpus: the host's processors that servers may use; none: all
    :raises exceptions.NotSupportedYet: no XenAPI host gives what is asked for
    :raises exceptions.UnfitHost: this one does not
    :raises nova.exception.NovaException: flavor and image contradict each other
    """
    flavor, image = instance.flavor, image_meta.properties
    _refuse_unserved(flavor, image)
    _refuse_numa(flavor, image, can)
    kind = domain_type(vm_mode(instance, image), _kernel(instance, image_meta), can)
    firmware = _firmware(image, kind, can)
    return Guest(
        os_type=instance.os_type,
        domain_type=kind,
        firmware=firmware,
        secure_boot=_secure_boot(flavor, image_meta, firmware, can),
        vtpm=_vtpm(flavor, image_meta, firmware, can),
        vcpu_weight=_weight(flavor),
        vcpu_cap=_cap(flavor),
        cpus=tuple(sorted(cpus)),
        cores_per_socket=_cores_per_socket(flavor, image_meta),
        device_id=_device_id(image),
        vga=_VGA.get(image.get("hw_video_model")),
        video_mb=_video_mb(flavor, image),
        pci=_pci(instance),
    )


def _of(instance: Any, name: str) -> Any:
    """Return a field of Nova's instance, None where it was not loaded."""
    return getattr(instance, name) if instance.obj_attr_is_set(name) else None


def _wished(flavor: Any, image: Any, wish: str) -> str | None:
    value = flavor.extra_specs.get(f"hw:{wish}")
    if value is None:
        # Properties have the names that Nova's class of them knows.
        value = image.get(f"hw_{wish}") if f"hw_{wish}" in image.fields else None
    return None if value is None else str(value).lower()


def _refuse_unserved(flavor: Any, image: Any) -> None:
    refused = []
    for wish, served in _SERVED.items():
        value = _wished(flavor, image, wish)
        if value is not None and value not in served | _FALSE:
            refused.append(f"{wish} {value}")
    if image.get("img_hide_hypervisor_id"):
        refused.append("a hidden hypervisor")
    if refused:
        raise exceptions.NotSupportedYet(
            f"A XenAPI host has no {', '.join(refused)}: take that from the image's "
            "properties hw_... or the flavor's extra specs hw:..."
        )


def _refuse_numa(flavor: Any, image: Any, can: Abilities) -> None:
    nodes = _wished(flavor, image, "numa_nodes")
    placed = any(
        name.startswith(("hw:numa_cpus", "hw:numa_mem")) for name in flavor.extra_specs
    )
    placed = placed or bool(image.get("hw_numa_cpus") or image.get("hw_numa_mem"))
    if nodes not in (None, "1") or placed:
        raise exceptions.NotSupportedYet(
            "A guest of a XenAPI host sees one NUMA node: use a flavor and an image "
            "without hw:numa_nodes above 1, hw:numa_cpus and hw:numa_mem."
        )
    if nodes == "1" and not can.one_node:
        raise exceptions.UnfitHost(
            "The host does not keep a guest's memory on one NUMA node, as "
            "hw:numa_nodes asks for",
            "set xe host-param-set numa-affinity-policy=best_effort",
        )


# Kind of domain and firmware


def _kernel(instance: Any, image_meta: Any) -> bool:
    """Tell whether no firmware can boot the image, for want of a boot loader in it."""
    is_ami = image_meta.obj_attr_is_set("disk_format")
    is_ami = is_ami and image_meta.disk_format == "ami"
    return is_ami or bool(_of(instance, "kernel_id"))


def vm_mode(instance: Any, image: Any) -> str | None:
    """Return Nova's vm_mode: the instance's, which the API took from its image."""
    return _of(instance, "vm_mode") or image.get("hw_vm_mode")


def domain_type(mode: str | None, kernel: bool, can: Abilities) -> str:
    """Choose the kind of domain: HVM unless the image cannot boot so.

    The retired driver made PV guests of Linux images, which hosts of today do not
    run; their kernels boot as HVM with PV drivers.

    :param mode: Nova's vm_mode
    :param kernel: the image comes with a kernel of its own (AMI)
    :raises exceptions.NotSupportedYet: no host can
    :raises exceptions.UnfitHost: this one cannot
    """
    if mode not in (None, "hvm", "xen"):
        raise exceptions.NotSupportedYet(
            f"A XenAPI host runs vm_mode hvm and, if it is old, xen; not {mode}."
        )
    if kernel and mode == "hvm":
        raise exceptions.NotSupportedYet(
            "An image with a kernel of its own (kernel_id, ami) does not boot with "
            "vm_mode hvm: take hw_vm_mode from the image."
        )
    if mode == "xen" and can.pv:
        return "pv"
    if kernel:
        if can.direct_kernel is None:
            raise exceptions.UnfitHost(
                "The host boots no kernel from dom0, as the image's kernel_id asks for",
                "use an image that holds its kernel",
            )
        return can.direct_kernel
    if mode == "xen":
        raise exceptions.UnfitHost(
            "The host runs no paravirtual guests, as the image's hw_vm_mode xen asks "
            "for",
            "set hw_vm_mode=hvm on the image, if its kernel boots as HVM",
        )
    return "hvm"


def _firmware(image: Any, kind: str, can: Abilities) -> str:
    wish = image.get("hw_firmware_type") or "bios"
    if wish not in _FIRMWARES:
        raise exceptions.NotSupportedYet(
            f"A XenAPI host has the firmware bios and uefi, not {wish}."
        )
    if wish == "uefi" and kind != "hvm":
        raise exceptions.NotSupportedYet(
            "A guest that boots a kernel from dom0, or is paravirtual, has no "
            "firmware: take hw_firmware_type from the image."
        )
    if wish == "uefi" and not can.uefi:
        raise exceptions.UnfitHost(
            "The host's release has no UEFI for guests: it came with Citrix Hypervisor "
            "8.0 and XCP-ng 8.0."
        )
    return wish


def _secure_boot(flavor: Any, image_meta: Any, firmware: str, can: Abilities) -> str:
    policy = hardware.get_secure_boot_constraint(flavor, image_meta)
    if policy == "required" and firmware != "uefi":
        raise exceptions.NotSupportedYet(
            "Secure Boot is required, and the image's firmware is BIOS: set "
            "hw_firmware_type=uefi on the image."
        )
    if policy == "required" and not can.secure_boot:
        raise exceptions.UnfitHost(
            "The host's pool has no certificates for Secure Boot",
            "install them with secureboot-certs install in dom0",
        )
    return _SECURE_BOOT.get(policy, "false") if firmware == "uefi" else "false"


def _vtpm(flavor: Any, image_meta: Any, firmware: str, can: Abilities) -> bool:
    wish = hardware.get_vtpm_constraint(flavor, image_meta)
    if wish is None:
        return False
    if wish.version != "2.0" or wish.model != "tpm-crb":
        raise exceptions.NotSupportedYet(
            f"A XenAPI host has no TPM of version {wish.version} and model "
            f"{wish.model}: ask for hw_tpm_version=2.0 and hw_tpm_model=tpm-crb."
        )
    if firmware != "uefi":
        raise exceptions.NotSupportedYet(
            "A virtual TPM needs UEFI: set hw_firmware_type=uefi on the image."
        )
    if not can.vtpm:
        raise exceptions.UnfitHost(
            "The host's release or licence has no virtual TPM: it came with XCP-ng 8.3 "
            "and XenServer 8."
        )
    return True


# Processors


def _weight(flavor: Any) -> int | None:
    text = flavor.extra_specs.get("quota:cpu_shares")
    # The flavor's own column cannot be set by today's API, which leaves 0 in it.
    wish = (flavor.vcpu_weight or None) if text is None else int(text)
    if wish is not None and wish not in _WEIGHTS:
        raise exceptions.NotSupportedYet(
            f"A processor weight (quota:cpu_shares) of {wish} is not between 1 and "
            f"{_WEIGHTS[-1]}, as Xen takes it; its default is 256."
        )
    return wish


def _cap(flavor: Any) -> int:
    """Return Xen's limit for a whole guest; Nova's quota is one processor's."""
    specs = flavor.extra_specs
    quota = int(specs.get("quota:cpu_quota", 0))
    period = int(specs.get("quota:cpu_period", _CPU_PERIOD))
    if quota <= 0 or period <= 0:
        return 0
    return max(1, math.floor(100 * flavor.vcpus * quota / period))


def _cores_per_socket(flavor: Any, image_meta: Any) -> int | None:
    wanted, most = hardware.get_cpu_topology_constraints(flavor, image_meta)
    asked = (wanted.sockets, wanted.cores, most.sockets, most.cores)
    if asked == _NO_TOPOLOGY:
        return None
    # Xen shows its guests no threads.
    found = hardware.get_best_cpu_topology(flavor, image_meta, allow_threads=False)
    return int(found.cores)


# What Nova gives where neither flavor nor image asks for anything.
_NO_TOPOLOGY = (0, 0, 65536, 65536)


# Devices


def _device_id(image: Any) -> int | None:
    wish = image.get("hw_device_id")
    if wish is None:
        return None
    if wish not in _DEVICE_IDS:
        raise exceptions.NotSupportedYet(
            f"The image's hw_device_id {wish} has not one to four digits."
        )
    return int(wish)


def _video_mb(flavor: Any, image: Any) -> int | None:
    wish = image.get("hw_video_ram")
    if wish is None:
        return None
    most = int(flavor.extra_specs.get("hw_video:ram_max_mb", 0))
    if wish > most:
        raise nova_exception.RequestedVRamTooHigh(req_vram=wish, max_vram=most)
    return int(wish)


def _pci(instance: Any) -> tuple[str, ...]:
    """Return the addresses of the devices that the flavor's alias asked for."""
    of_flavor = instance.get_pci_devices(objects.InstancePCIRequest.FLAVOR_ALIAS)
    if len(of_flavor) != len(instance.get_pci_devices()):
        raise exceptions.NotSupportedYet(
            "This release of xenapi-driver does not support SR-IOV ports: use ports of "
            "vnic_type normal."
        )
    return tuple(pci_address(device.address) for device in of_flavor)


def pci_address(text: str) -> str:
    """Return an address with its domain, as XAPI writes it."""
    return text if text.count(":") == 2 else f"0000:{text}"
