# SPDX-License-Identifier: Apache-2.0
"""Class VM: memory and processors, of halted and of running guests."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.vms import memory, operations, states

_VCPUS = "VCPU values must satisfy: 0 < VCPUs_at_startup \u2264 VCPUs_max"
_VCPUS_LIVE = "VCPU values must satisfy: 0 < VCPUs \u2264 VCPUs_max"
_NO_BALLOON = "non-memory-managed VMs must have the same dynamic and static limits"


@message("VM.set_VCPUs_max", "VM.set_VCPUs_at_startup")
def set_vcpus(call: Call, ref: str, value: int) -> None:
    """Change the number of processors that the next start gives."""
    row = call.db.row("VM", ref)
    name = call.method.removeprefix("VM.set_")
    if name == "VCPUs_max":
        states.require(call.db, ref, "changing_VCPUs")
    after = {**row, name: value}
    if not 0 < after["VCPUs_at_startup"] <= after["VCPUs_max"]:
        raise Failure("INVALID_VALUE", _VCPUS, str(value))
    overhead = memory.overhead(after)
    call.db.update("VM", ref, **{name: value}, memory_overhead=overhead)


@message("VM.set_VCPUs_number_live")
def set_vcpus_number_live(call: Call, ref: str, number: int) -> None:
    """Change the processors of a running guest."""
    with operations.under_way(call, ref, "changing_VCPUs_live") as row:
        if not 0 < number <= row["VCPUs_max"]:
            raise Failure("INVALID_VALUE", _VCPUS_LIVE, str(row["VCPUs_max"]))
        call.db.update("VM_metrics", row["metrics"], VCPUs_number=number)
        call.db.update("VM", ref, VCPUs_at_startup=number)


@message("VM.add_to_VCPUs_params_live")
def add_to_vcpus_params_live(call: Call, ref: str, key: str, value: str) -> None:
    """Change weight, cap or mask of a running guest's processors."""
    with operations.under_way(call, ref, "changing_VCPUs_live") as row:
        params = {**row["VCPUs_params"], key: value}
        call.db.update("VM", ref, VCPUs_params=params)
        call.db.update("VM_metrics", row["metrics"], VCPUs_params=params)


def _set_memory(call: Call, ref: str, operation: str, **limits: int) -> None:
    """Change some of the four limits; they must stay in order."""
    row = states.require(call.db, ref, operation)
    after = {**row, **limits}
    memory.assert_order(after)
    _require_managed(after)
    live = row["power_state"] == "Running"
    call.db.update(
        "VM",
        ref,
        **limits,
        # Nothing here gives a running guest more than it must have.
        memory_target=after["memory_dynamic_min" if live else "memory_dynamic_max"],
        memory_overhead=memory.overhead(after),
    )
    if live:
        actual = {"memory_actual": after["memory_dynamic_min"]}
        call.db.update("VM_metrics", row["metrics"], **actual)


def _require_managed(after: Row) -> None:
    """Refuse a range where memory cannot move.

    :raises Failure: MEMORY_CONSTRAINT_VIOLATION_MAXPIN
    """
    pinned = after["platform"].get("nested-virt") in ("true", "1")
    names = ("memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    if pinned and len({after[name] for name in names}) > 1:
        raise Failure("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", _NO_BALLOON)


@message("VM.set_memory_limits")
def set_memory_limits(
    call: Call, ref: str, static_min: int, static_max: int, low: int, high: int
) -> None:
    """Set all four limits of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_memory_limits",
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=low,
        memory_dynamic_max=high,
    )


@message("VM.set_memory")
def set_memory(call: Call, ref: str, value: int) -> None:
    """Set the memory of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_memory_limits",
        memory_static_max=value,
        memory_dynamic_min=value,
        memory_dynamic_max=value,
    )


@message("VM.set_memory_dynamic_range")
def set_memory_dynamic_range(call: Call, ref: str, low: int, high: int) -> None:
    """Set the range in which a guest's memory may move, live too."""
    _set_memory(
        call,
        ref,
        "changing_dynamic_range",
        memory_dynamic_min=low,
        memory_dynamic_max=high,
    )


@message("VM.set_memory_static_range")
def set_memory_static_range(call: Call, ref: str, low: int, high: int) -> None:
    """Set the outer limits of a halted VM."""
    _set_memory(
        call,
        ref,
        "changing_static_range",
        memory_static_min=low,
        memory_static_max=high,
    )


@message(
    "VM.set_memory_static_max",
    "VM.set_memory_static_min",
    "VM.set_memory_dynamic_max",
    "VM.set_memory_dynamic_min",
)
def set_one_limit(call: Call, ref: str, value: int) -> None:
    """Set one limit."""
    name = call.method.removeprefix("VM.set_")
    moving = "dynamic" in name
    operation = "changing_dynamic_range" if moving else "changing_memory_limits"
    _set_memory(call, ref, operation, **{name: value})


@message("VM.set_memory_target_live")
def set_memory_target_live(call: Call, ref: str, target: int) -> None:
    """Give a running guest exactly this much."""
    states.require(call.db, ref, "changing_memory_live")
    set_memory_dynamic_range(call, ref, target, target)


@message("VM.wait_memory_target_live")
def wait_memory_target_live(call: Call, ref: str) -> None:
    """Wait until a running guest has what it should have: it has."""
    states.require(call.db, ref, "awaiting_memory_live")


@message("VM.compute_memory_overhead")
def compute_memory_overhead(call: Call, ref: str) -> int:
    """Return the bytes that the VM costs beyond its own memory."""
    return memory.overhead(call.db.row("VM", ref))


@message("VM.maximise_memory")
def maximise_memory(call: Call, ref: str, total: int, approximate: bool) -> int:
    """Return how large the VM could be if it may cost ``total`` bytes in all."""
    row = call.db.row("VM", ref)
    if approximate:
        # Room for processors that are added later.
        row = {**row, "VCPUs_max": max(64, row["VCPUs_max"])}
    return memory.largest_guest(row, total)


def _set_shadow(call: Call, ref: str, multiplier: float) -> None:
    if multiplier < 1.0:
        raise Failure("INVALID_VALUE", "multiplier", f"{multiplier:g}")
    after = {**call.db.row("VM", ref), "HVM_shadow_multiplier": multiplier}
    overhead = memory.overhead(after)
    call.db.update(
        "VM", ref, HVM_shadow_multiplier=multiplier, memory_overhead=overhead
    )


@message("VM.set_HVM_shadow_multiplier")
def set_hvm_shadow_multiplier(call: Call, ref: str, value: float) -> None:
    """Change the share of shadow memory of a halted VM."""
    states.require(call.db, ref, "changing_shadow_memory")
    _set_shadow(call, ref, value)


@message("VM.set_shadow_multiplier_live")
def set_shadow_multiplier_live(call: Call, ref: str, value: float) -> None:
    """Change the share of shadow memory of a running VM."""
    row = states.require(call.db, ref, "changing_shadow_memory_live")
    before = memory.overhead(row)
    more = memory.overhead({**row, "HVM_shadow_multiplier": value}) - before
    free = memory.free(call.db, row["resident_on"])
    if more > free:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(more), str(free))
    _set_shadow(call, ref, value)
