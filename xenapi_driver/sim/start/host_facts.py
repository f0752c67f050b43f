# SPDX-License-Identifier: Apache-2.0
"""Facts of the simulated hardware and of the release that runs on it."""

from xenapi_driver.sim.world import now

_FEATURES = "-".join(
    ["1f8bfbff", "f7fa3223", "2d93fbff", "00000123", "00000001", "001c0fbb"]
    + ["00000000"] * 16
)
_FLAGS = (
    "fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush acpi mmx fxsr sse sse2"
    " ht syscall nx lm constant_tsc rep_good pni pclmulqdq monitor vmx ssse3 fma cx16"
    " sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm avx2 bmi1 bmi2"
)
# What a licence may restrict. Nothing is, but there is no stack for clustering here.
_RESTRICTIONS = """
    vswitch_controller lab stage storagelink storagelink_site_recovery web_selfservice
    web_selfservice_manager hotfix_apply export_resource_data read_caching cifs
    health_check xcm vm_memory_introspection batch_hotfix_apply management_on_vlan
    ws_proxy cloud_management nrpe vlan qos pool_attached_storage netapp equalogic
    pooling marathon email_alerting historical_performance wlb rbac dmc checkpoint
    cpu_masking connection vmpr vmss intellicache gpu dr vif_locking
    storage_xen_motion vgpu integrated_gpu_passthrough vss guest_agent_auto_update
    pci_device_for_auto_update xen_motion guest_ip_setting ad nested_virt
    live_patching set_vcpus_number_live pvs_proxy igmp_snooping rpu pool_size cbt
    usb_passthrough network_sriov cluster_address zstd_export pool_secret_rotation
    certificate_verification updates internal_repo_access vtpm vm_groups vm_start
    vm_appliance_start
"""
BIOS_STRINGS = {
    "bios-vendor": "",
    "bios-version": "",
    "system-manufacturer": "",
    "system-product-name": "",
    "system-version": "",
    "system-serial-number": "",
    "baseboard-manufacturer": "",
    "baseboard-product-name": "",
    "baseboard-version": "",
    "baseboard-serial-number": "",
    "oem-1": "Xen",
    "oem-2": "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
    "hp-rombios": "",
}
CAPABILITIES = ["xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64"]
POOL_CPU_FACTS = (
    "features_hvm_host",
    "features_pv_host",
    "socket_count",
    "cpu_count",
    "vendor",
)


def restrictions() -> dict[str, str]:
    """Return what the licence says of each feature."""
    found = {f"restrict_{name}": "false" for name in _RESTRICTIONS.split()}
    nags = {"platform_filter": "false", "regular_nag_dialog": "false"}
    return {**found, **nags, "enable_xha": "true", "restrict_corosync": "true"}


def software(name: str) -> dict[str, str]:
    """Return a host's software_version."""
    return {
        "product_brand": "XCP-ng",
        "product_version": "8.3.0",
        "product_version_text": "8.3",
        "platform_name": "XCP",
        "platform_version": "3.4.0",
        "xapi": "26.17",
        "xapi_build": "26.17.0",
        "build_number": "simulated",
        "git_id": "0",
        "date": now(),
        "dbv": "2026.0202",
        "xencenter_min": "2.23",
        "xencenter_max": "2.23",
        "hostname": name,
        "xen": "4.17.5-9",
        "linux": "4.19.0+1",
        "network_backend": "openvswitch",
        "db_schema": "5.909",
    }


def cpu(count: int) -> dict[str, str]:
    """Return a host's cpu_info."""
    return {
        "cpu_count": str(count),
        "socket_count": "1",
        "threads_per_core": "2",
        "nr_nodes": "1",
        "vendor": "GenuineIntel",
        "speed": "2400.000",
        "modelname": "Intel(R) Xeon(R) CPU E5-2640 v4 @ 2.40GHz",
        "family": "6",
        "model": "79",
        "stepping": "1",
        "flags": _FLAGS,
        "features": _FEATURES,
        "features_pv": _FEATURES,
        "features_hvm": _FEATURES,
        "features_pv_host": _FEATURES,
        "features_hvm_host": _FEATURES,
    }
