# SPDX-License-Identifier: Apache-2.0
"""Class data_source: what is measured of a host or guest, and what is recorded."""

import time
from typing import Any

from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.metrics import measures
from xenapi_driver.sim.metrics.measures import Owner, Source
from xenapi_driver.sim.vms import states


def _guest(call: Call, vm: str) -> Owner:
    """Return a guest whose sources can be looked at and chosen now."""
    states.require(call.db, vm, "data_source_op")
    return measures.guest(call.world, vm)


def _find(owner: Owner, name: str) -> Source:
    for source in owner.sources:
        if source.name == name:
            return source
    raise _invalid(name)


def _invalid(name: str) -> Failure:
    text = f'S(Rrdd_internal_error);S(Rrd.Invalid_data_source("{name}"))'
    return internal_error(f"IDL Error: [{text}]")


def _records(call: Call, owner: Owner) -> list[dict[str, Any]]:
    now = time.time()
    recorded = {source.name for source in owner.recorded(call.world)}
    return [
        {
            "name_label": source.name,
            "name_description": source.about,
            "enabled": source.name in recorded,
            "standard": source.standard,
            "units": source.units,
            "min": 0.0,
            "max": source.most,
            "value": source.value(now) if source.name in recorded else 0.0,
        }
        for source in owner.sources
    ]


@message("VM.get_data_sources")
def get_vm_data_sources(call: Call, vm: str) -> list[dict[str, Any]]:
    """Return what is measured of a running guest."""
    return _records(call, _guest(call, vm))


@message("VM.query_data_source")
def query_vm_data_source(call: Call, vm: str, name: str) -> float:
    """Return a value now; a paused guest has some too."""
    state = call.db.row("VM", vm)["power_state"]
    if state not in ("Running", "Paused"):
        raise Failure("VM_BAD_POWER_STATE", vm, "running;paused", state.lower())
    return _find(measures.guest(call.world, vm), name).value(time.time())


@message("VM.record_data_source")
def record_vm_data_source(call: Call, vm: str, name: str) -> None:
    """Record a source from now on."""
    _record(call, _guest(call, vm), name)


@message("VM.forget_data_source_archives")
def forget_vm_data_source(call: Call, vm: str, name: str) -> None:
    """Forget what was recorded, and record it no more."""
    _forget(call, _guest(call, vm), name)


@message("host.get_data_sources")
def get_host_data_sources(call: Call, host: str) -> list[dict[str, Any]]:
    """Return what is measured of a host."""
    return _records(call, measures.host(call.world, host))


@message("host.query_data_source")
def query_host_data_source(call: Call, host: str, name: str) -> float:
    """Return a value now."""
    return _find(measures.host(call.world, host), name).value(time.time())


@message("host.record_data_source")
def record_host_data_source(call: Call, host: str, name: str) -> None:
    """Record a source from now on."""
    _record(call, measures.host(call.world, host), name)


@message("host.forget_data_source_archives")
def forget_host_data_source(call: Call, host: str, name: str) -> None:
    """Forget what was recorded, and record it no more."""
    _forget(call, measures.host(call.world, host), name)


@message(
    "SR.query_data_source",
    "SR.record_data_source",
    "SR.forget_data_source_archives",
)
def choose_sr_data_source(call: Call, sr: str, name: str) -> None:
    """Refuse: nothing is measured of an SR here."""
    raise _invalid(name)


def _record(call: Call, owner: Owner, name: str) -> None:
    source = _find(owner, name)
    chosen = call.world.recorded.setdefault(owner.ref, {})
    if not chosen.get(name, source.standard):
        call.world.forgotten[owner.ref, name] = time.time()
    chosen[name] = True


def _forget(call: Call, owner: Owner, name: str) -> None:
    _find(owner, name)
    call.world.recorded.setdefault(owner.ref, {})[name] = False
    call.world.forgotten[owner.ref, name] = time.time()
