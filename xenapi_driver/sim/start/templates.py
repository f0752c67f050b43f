# SPDX-License-Identifier: Apache-2.0
"""The templates of a fresh host: a dozen of the many that a real one comes with."""

from dataclasses import dataclass, field
from typing import Any

from xenapi_driver.sim.registry import Registry

GIB = 1024**3
_TIB = 1024**4
_INSTALL = (
    "To use this template from the CLI, install your VM using vm-install, then set"
    " other-config-install-repository to the path to your network repository, e.g."
    " http://<server>/<path> or nfs:server:/<path>"
)
_PROVISION = (
    "Clones of this template will automatically provision their storage when first"
    " booted and then reconfigure themselves with the optimal settings for {}."
)
_COMMON = {"nx": "true", "acpi": "1", "apic": "true", "pae": "true", "hpet": "true"}
_LINUX = {"vga": "std", "videoram": "8", "viridian": "false", "device_id": "0001"}
_WINDOWS = {
    "vga": "std",
    "videoram": "8",
    "viridian": "true",
    "viridian_time_ref_count": "true",
    "viridian_reference_tsc": "true",
    "viridian_apic_assist": "true",
    "viridian_crash_ctl": "true",
    "viridian_stimer": "true",
    "device_id": "0002",
    "cores-per-socket": "2",
}


@dataclass(frozen=True)
class Template:
    """What tells one template from another.

    :ivar label: reference_label, by which clients know a template in any language
    :ivar memory: static maximum in GiB
    :ivar disk: size in GiB of the disk that ``other_config:disks`` asks for
    :ivar family: linux, windows or other
    """

    name: str
    label: str
    memory: float = 2
    disk: int = 10
    family: str = "linux"
    firmware: str = "uefi"
    platform: dict[str, str] = field(default_factory=dict)


TEMPLATES = (
    Template(
        "Other install media", "other-install-media", 0.25, 0, "other", firmware="bios"
    ),
    Template("AlmaLinux 9", "almalinux-9"),
    Template("CentOS Stream 9", "centos-stream-9"),
    Template("Debian Bookworm 12", "debian-12"),
    Template("Debian Bullseye 11", "debian-11"),
    Template("Red Hat Enterprise Linux 9", "rhel-9"),
    Template("Rocky Linux 9", "rocky-9"),
    Template("SUSE Linux Enterprise 15 (64-bit)", "sle-15-64bit", disk=8),
    Template("Ubuntu Jammy Jellyfish 22.04", "ubuntu-22.04"),
    Template("Ubuntu Noble Numbat 24.04", "ubuntu-24.04"),
    Template("Windows 10 (64-bit)", "windows-10-64bit", 2, 32, "windows"),
    Template(
        "Windows 11",
        "windows-11",
        8,
        64,
        "windows",
        platform={"acpi_laptop_slate": "1", "vtpm": "true"},
    ),
    Template(
        "Windows Server 2022 (64-bit)", "windows-server-2022-64bit", 2, 32, "windows"
    ),
)


def values(db: Registry, template: Template) -> dict[str, Any]:
    """Return the fields of a template's VM record that are its own."""
    windows = template.family == "windows"
    size = int(template.memory * GIB)
    processors = 2 if windows else 1
    return {
        "name_label": template.name,
        "name_description": _description(template),
        "reference_label": template.label,
        "is_a_template": True,
        "is_default_template": True,
        "user_version": 1,
        "version": 1,
        "memory_static_max": size,
        "memory_dynamic_max": size,
        "memory_dynamic_min": size,
        "memory_static_min": size // 2,
        "VCPUs_max": processors,
        "VCPUs_at_startup": processors,
        "HVM_boot_params": {
            "firmware": template.firmware,
            "order": "cdn" if template.family == "linux" else "cd",
        },
        "platform": _platform(template),
        "other_config": _other_config(db, template),
        "recommendations": _recommendations(template),
        "has_vendor_device": False,
        "generation_id": "0:0" if windows else "",
        "hardware_platform_version": 0,
        "power_state": "Halted",
        "domid": -1,
        "domain_type": "hvm",
        "HVM_boot_policy": "BIOS order",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "memory_target": 0,
    }


def _description(template: Template) -> str:
    if template.family == "windows":
        return _PROVISION.format(template.name)
    if template.family == "other":
        return "Template which allows VM installation from install media"
    return _INSTALL


def _platform(template: Template) -> dict[str, str]:
    if template.family == "other":
        return {**_COMMON, "viridian": "true", "secureboot": "false"}
    own = _WINDOWS if template.family == "windows" else _LINUX
    return {**_COMMON, **own, "secureboot": "auto", **template.platform}


def _other_config(db: Registry, template: Template) -> dict[str, str]:
    config = {
        "default_template": "true",
        # The task that made it when the host was installed; it is long gone.
        "import_task": db.new_ref(),
        "mac_seed": db.new_uuid(),
        "install-methods": "cdrom",
    }
    if template.family == "linux":
        config.update(
            {"linux_template": "true", "install-methods": "cdrom,nfs,http,ftp"}
        )
    if template.disk:
        bootable = str(template.family == "linux").lower()
        config["disks"] = (
            f'<provision><disk size="{template.disk * GIB}" sr=""'
            f' bootable="{bootable}" type="system" device="0"/></provision>'
        )
    return config


def _recommendations(template: Template) -> str:
    windows = template.family == "windows"
    limit = _TIB // 8 if template.family == "other" else 1536 * GIB
    rules = [("memory-static-max", "max", str(limit))]
    if windows:
        rules.append(("vcpus-min", "min", "2"))
    rules.append(("vcpus-max", "max", "64"))
    rules.append(("has-vendor-device", "value", "true" if windows else "false"))
    if template.family == "linux":
        rules += [("allow-gpu-passthrough", "value", "1"), ("allow-vgpu", "value", "1")]
    if template.family != "other" and template.label != "windows-11":
        rules.append(("allow-network-sriov", "value", "1"))
    bios = "no" if template.label == "windows-11" else "yes"
    rules.append(("supports-bios", "value", bios))
    rules += [
        ("supports-uefi", "value", "yes"),
        ("supports-secure-boot", "value", "yes"),
    ]
    fields = "".join(
        f'<restriction field="{name}" {kind}="{value}"/>' for name, kind, value in rules
    )
    return (
        f"<restrictions>{fields}"
        '<restriction property="number-of-vbds" max="255"/>'
        '<restriction property="number-of-vifs" max="7"/></restrictions>'
    )
