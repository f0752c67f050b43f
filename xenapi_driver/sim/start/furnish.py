# SPDX-License-Identifier: Apache-2.0
"""Puts what an inventory file names into a freshly installed pool.

Through the same calls that a client would make, so that nothing stands there that a
host would have refused; only what is in a machine's case is written down directly.
"""

import time
from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.start import host_records
from xenapi_driver.sim.start.inventory_file import (
    GIB,
    HostPlan,
    InventoryRefused,
    NetworkPlan,
    PoolPlan,
    SrPlan,
    TemplatePlan,
    VmPlan,
)
from xenapi_driver.sim.world import World

Execute = Callable[[str, list[Any]], Any]
# Seconds that a suspended guest gets until its agent can suspend it.
_PATIENCE = 30.0
_NOT_YET = ("VM_MISSING_PV_DRIVERS", "VM_LACKS_FEATURE")
_CONFIGS: dict[str, Callable[[str], dict[str, str]]] = {
    "ext": lambda name: {"device": f"/dev/disk/by-id/{name}"},
    "lvm": lambda name: {"device": f"/dev/disk/by-id/{name}"},
    "nfs": lambda name: {"server": "nfs.example.org", "serverpath": f"/{name}"},
    "iso": lambda name: {"location": f"nfs.example.org:/{name}"},
}
_PLATFORM = {"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "viridian": "1"}


def furnish(world: World, execute: Execute, plan: PoolPlan, where: str = "") -> None:
    """Make what ``plan`` names.

    :param where: what to call the pool in an error
    :raises InventoryRefused: the host refused something; names the key
    """
    _Furnisher(world, execute, where).pool(plan)


class _Furnisher:
    def __init__(self, world: World, execute: Execute, where: str) -> None:
        self._world = world
        self._execute = execute
        self._where = f"{where}." if where else ""
        self._key = ""
        self._session = ""
        self._to_suspend: list[tuple[str, str]] = []

    def _call(self, method: str, *params: Any) -> Any:
        try:
            return self._execute(method, [self._session, *params])
        except Failure as failure:
            said = " ".join(failure.description)
            text = f"{self._where}{self._key}: {method} answers {said}."
            raise InventoryRefused(text) from failure

    def _find(self, cls: str, name: str, key: str) -> str:
        """Return the object of that name.

        :raises InventoryRefused: there is none
        """
        found = self._call(f"{cls}.get_by_name_label", name)
        if not found:
            text = f"{self._where}{self._key}.{key}: there is no {cls} {name!r}."
            raise InventoryRefused(text)
        return str(found[0])

    def pool(self, plan: PoolPlan) -> None:
        login = [self._world.username, self._world.password, "1.0", "inventory"]
        self._session = self._execute("session.login_with_password", login)
        try:
            (pool,) = self._call("pool.get_all")
            self._call("pool.set_name_label", pool, plan.name)
            self._call("pool.set_name_description", pool, plan.description)
            for number, host in enumerate(plan.hosts):
                self._key = f"hosts[{number}]"
                self._host(host, self._world.db.refs("host")[number])
            for name, make in (
                ("networks", self._network),
                ("srs", self._sr),
                ("templates", self._template),
                ("vms", self._vms),
            ):
                for number, item in enumerate(getattr(plan, name)):
                    self._key = f"{name}[{number}]"
                    make(item)
            self._suspend_all()
        finally:
            self._execute("session.logout", [self._session])

    def _host(self, plan: HostPlan, host: str) -> None:
        db = self._world.db
        if plan.name is not None:
            self._call("host.set_hostname_live", host, plan.name)
            self._call("host.set_name_label", host, plan.name)
            label = f"Control domain on host: {plan.name}"
            self._call(
                "VM.set_name_label", db.row("host", host)["control_domain"], label
            )
        if plan.memory is not None:
            metrics = db.row("host", host)["metrics"]
            db.update("host_metrics", metrics, memory_total=plan.memory)
        if plan.cpus is not None:
            host_records.fit_cpus(db, host, plan.cpus)

    def _network(self, plan: NetworkPlan) -> None:
        record: dict[str, Any] = {
            "name_label": plan.name,
            "name_description": plan.description,
            "MTU": plan.mtu,
            "other_config": {},
            "managed": plan.managed,
        }
        if plan.bridge:
            record["bridge"] = plan.bridge
        if not plan.managed and plan.bridge:
            for bridges in self._world.bridges.values():
                bridges.add(plan.bridge)
        network = self._call("network.create", record)
        if plan.vlan is not None:
            below = self._nic(plan.device)
            self._call("pool.create_VLAN_from_PIF", below, network, plan.vlan)

    def _nic(self, device: str) -> str:
        for pif in self._call("host.get_PIFs", self._world.coordinator):
            if self._call("PIF.get_device", pif) == device:
                return str(pif)
        text = f"{self._where}{self._key}.device: no host has a NIC {device!r}."
        raise InventoryRefused(text)

    def _sr(self, plan: SrPlan) -> None:
        shared = plan.type in ("nfs", "iso")
        host = self._world.coordinator
        if plan.host:
            host = self._find("host", plan.host, "host")
        config = plan.device_config or _CONFIGS[plan.type](plan.name)
        about = [plan.name, plan.description, plan.type]
        content = "iso" if plan.type == "iso" else "user"
        before, self._world.sr_size = self._world.sr_size, plan.size
        try:
            rest = (plan.size, *about, content, shared, {})
            sr = self._call("SR.create", host, config, *rest)
        finally:
            self._world.sr_size = before
        if plan.default:
            (pool,) = self._call("pool.get_all")
            self._call("pool.set_default_SR", pool, sr)

    def _template(self, plan: TemplatePlan) -> None:
        config = {"install-methods": "cdrom"}
        if plan.disk:
            config["disks"] = (
                f'<provision><disk device="0" size="{plan.disk}" sr=""'
                ' bootable="true" type="system"/></provision>'
            )
        self._call(
            "VM.create",
            {
                **_record(plan.name, plan.memory, plan.vcpus),
                "name_description": plan.description,
                "is_a_template": True,
                "HVM_boot_params": {"order": "cdn", "firmware": plan.firmware},
                "other_config": config,
            },
        )

    def _vms(self, plan: VmPlan) -> None:
        template = self._find("VM", plan.template, "template") if plan.template else ""
        networks = [self._find("network", name, "networks") for name in plan.networks]
        host = self._find("host", plan.host, "host") if plan.host else NULL
        disks = [
            (disk.size, self._find("SR", disk.sr, "disks") if disk.sr else "")
            for disk in plan.disks
        ]
        for name in plan.names():
            vm = (
                self._cloned(plan, template, name)
                if template
                else self._made(plan, name)
            )
            self._call("VM.set_name_description", vm, plan.description)
            self._call("VM.set_affinity", vm, host)
            self._call("VM.set_tags", vm, list(plan.tags))
            for key, value in plan.other_config.items():
                self._call("VM.remove_from_other_config", vm, key)
                self._call("VM.add_to_other_config", vm, key, value)
            for size, sr in disks:
                self._disk(vm, size, sr)
            for device, network in enumerate(networks):
                self._call("VIF.create", _vif(vm, network, device))
            self._bring(vm, plan.state, host)

    def _made(self, plan: VmPlan, name: str) -> str:
        memory = GIB if plan.memory is None else plan.memory
        record = _record(name, memory, 1 if plan.vcpus is None else plan.vcpus)
        return str(self._call("VM.create", record))

    def _cloned(self, plan: VmPlan, template: str, name: str) -> str:
        vm = self._call("VM.clone", template, name)
        self._call("VM.provision", vm)
        if plan.memory is not None:
            limits = [plan.memory] * 4
            self._call("VM.set_memory_limits", vm, *limits)
        if plan.vcpus is not None:
            now = self._call("VM.get_VCPUs_max", vm)
            order = ["VM.set_VCPUs_at_startup", "VM.set_VCPUs_max"]
            for method in order if plan.vcpus < now else reversed(order):
                self._call(method, vm, plan.vcpus)
        return str(vm)

    def _disk(self, vm: str, size: int, sr: str) -> None:
        if not sr:
            (pool,) = self._call("pool.get_all")
            sr = self._call("pool.get_default_SR", pool)
        devices = self._call("VM.get_allowed_VBD_devices", vm)
        vdi = self._call(
            "VDI.create",
            {
                "name_label": f"{self._call('VM.get_name_label', vm)} {devices[0]}",
                "SR": sr,
                "virtual_size": size,
                "type": "user",
                "sharable": False,
                "read_only": False,
                "other_config": {},
            },
        )
        self._call("VBD.create", _vbd(vm, vdi, devices[0]))

    def _bring(self, vm: str, state: str, host: str) -> None:
        """Bring a halted VM into a state."""
        if state == "halted":
            return
        paused = state == "paused"
        if host == NULL:
            self._call("VM.start", vm, paused, False)
        else:
            self._call("VM.start_on", vm, host, paused, False)
        if state == "suspended":
            self._to_suspend.append((self._key, vm))

    def _suspend_all(self) -> None:
        """Suspend guests as soon as their agents let them be suspended."""
        end = time.monotonic() + _PATIENCE
        for key, vm in self._to_suspend:
            self._key = key
            while self._must_wait(vm) and time.monotonic() < end:
                time.sleep(0.05)
            if self._call("VM.get_power_state", vm) != "Suspended":
                self._call("VM.suspend", vm)

    def _must_wait(self, vm: str) -> bool:
        """Try to suspend a guest; return whether it may go better later."""
        try:
            self._execute("VM.suspend", [self._session, vm])
        except Failure as failure:
            return failure.code in _NOT_YET
        return False


def _record(name: str, memory: int, vcpus: int) -> dict[str, Any]:
    """Return a complete record for VM.create."""
    texts = ("PV_bootloader", "PV_kernel", "PV_ramdisk", "PV_args")
    more = ("PV_bootloader_args", "PV_legacy_args", "PCI_bus", "recommendations")
    limits = ("static_min", "static_max", "dynamic_min", "dynamic_max")
    return {
        "name_label": name,
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL,
        **{f"memory_{limit}": memory for limit in limits},
        "VCPUs_params": {},
        "VCPUs_max": vcpus,
        "VCPUs_at_startup": vcpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        **dict.fromkeys((*texts, *more), ""),
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cdn"},
        "platform": dict(_PLATFORM),
        "other_config": {},
        "has_vendor_device": False,
    }


def _vif(vm: str, network: str, device: int) -> dict[str, Any]:
    return {
        "device": str(device),
        "network": network,
        "VM": vm,
        "MAC": "",
        "MTU": 1500,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def _vbd(vm: str, vdi: str, device: str) -> dict[str, Any]:
    return {
        "VM": vm,
        "VDI": vdi,
        "userdevice": device,
        "bootable": device == "0",
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
