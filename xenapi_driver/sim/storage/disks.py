# SPDX-License-Identifier: Apache-2.0
"""VDI objects kept true to the files of their SR."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import sr_kinds
from xenapi_driver.sim.storage.block_devices import NoBlockDevices
from xenapi_driver.sim.storage.sr_kinds import Store
from xenapi_driver.sim.storage.vhd_store import (
    BadSize,
    Broken,
    ChainTooLong,
    Missing,
    NoSpace,
    SrStore,
    Unimplemented,
    VhdInfo,
    parts,
)
from xenapi_driver.sim.world import World


@contextlib.contextmanager
def backend_errors(fallback: str = "SR_BACKEND_FAILURE_46") -> Iterator[None]:
    """Turn what the SR objects to into the driver failures of a real host."""
    try:
        yield
    except NoSpace as error:
        text = f"There is insufficient space: {error}"
        raise Failure("SR_BACKEND_FAILURE_44", "", text, "") from error
    except BadSize as error:
        text = f"VDI Invalid size [opterr={error}]"
        raise Failure("SR_BACKEND_FAILURE_79", "", text, "") from error
    except Unimplemented as error:
        raise Failure("SR_BACKEND_FAILURE_38", "", str(error), "") from error
    except ChainTooLong as error:
        text = f"Snapshot chain too long: {error}"
        raise Failure("SR_BACKEND_FAILURE_109", "", text, "") from error
    except (Broken, Missing, NoBlockDevices) as error:
        text = f"The VDI is not available [opterr={error}]"
        raise Failure(fallback, "", text, "") from error


def require_attached(world: World, sr: str) -> None:
    """Refuse work on an SR that no host has plugged.

    :raises Failure: SR_HAS_NO_PBDS
    """
    pbds = world.db.row("SR", sr)["PBDs"]
    if not any(world.db.row("PBD", pbd)["currently_attached"] for pbd in pbds):
        raise Failure("SR_HAS_NO_PBDS", sr)


def store_of(world: World, sr: str, feature: str = "") -> Store:
    """Return the files of an SR whose disks can be changed.

    :param feature: what the SR's driver must be able to do
    :raises Failure: SR_HAS_NO_PBDS, SR_OPERATION_NOT_SUPPORTED
    """
    if feature:
        sr_kinds.require_feature(world.db, sr, feature)
    require_attached(world, sr)
    try:
        return world.stores[sr]
    except KeyError:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr) from None


def vhds_of(world: World, sr: str, feature: str = "") -> SrStore:
    """Return the files of an SR that keeps VHDs.

    :raises Failure: SR_HAS_NO_PBDS, SR_OPERATION_NOT_SUPPORTED
    """
    store = store_of(world, sr, feature)
    if not isinstance(store, SrStore):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    return store


def log_path(world: World, vdi: str) -> Path | None:
    """Return the file beside which a disk's log of changes is; None: it has none."""
    row = world.db.row("VDI", vdi)
    store = world.stores.get(row["SR"])
    if not row["cbt_enabled"] or not isinstance(store, SrStore):
        return None
    return store.path_of(row["location"])


def begin_epoch(world: World, vdi: str) -> None:
    """Let a disk that is to begin anew at each start of its guest do so.

    :raises Failure: SR_BACKEND_FAILURE_46
    """
    row = world.db.row("VDI", vdi)
    store = world.stores.get(row["SR"])
    if row["on_boot"] == "reset" and isinstance(store, SrStore):
        with backend_errors():
            store.reset(row["location"])
        note(world, row["SR"], row["location"])


def stage_copy(
    source: Store,
    name: str,
    target: Store,
    new: str,
    report: Callable[[float], None] = lambda share: None,
    at_least: int = 0,
) -> None:
    """Write what a disk holds into a file that ``target`` must publish or discard.

    :param report: is told what share is done; what it raises ends the copy
    :param at_least: bytes that the copy is to have
    """
    with source.open(name) as disk:
        size = max(disk.virtual_size, at_least)

        def told() -> Iterator[tuple[int, bytes]]:
            for offset, data in parts(disk):
                report(offset / size)
                yield offset, data

        target.stage_data(new, size, told())


def facts(store: Store, info: VhdInfo) -> dict[str, Any]:
    """Return what the files say of a disk, as VDI fields."""
    sm_config = {"vdi_type": "vhd"} if store.format == "vhd" else {}
    if info.raw:
        sm_config["vdi_type"] = "aio"  # the storage manager's word for a plain file
    if info.parent:
        sm_config["vhd-parent"] = info.parent
    return {
        "virtual_size": info.virtual_size,
        "physical_utilisation": info.physical_bytes,
        "sm_config": sm_config,
    }


# Kinds of disks as error texts name them, where only a capital is not enough.
_KIND_TEXTS = {
    "cbt_metadata": "CBT metadata",
    "ha_statefile": "HA statefile",
    "pvs_cache": "PVS cache",
    "redo_log": "Redo log",
    "rrd": "rrd",
}


def wrong_kind(ref: str, row: Row) -> Failure:
    """Return the refusal of what is not done with a disk of this kind."""
    text = _KIND_TEXTS.get(row["type"], str(row["type"]).capitalize())
    return Failure("VDI_INCOMPATIBLE_TYPE", ref, text)


def scan(world: World, sr: str) -> None:
    """Take over what is on the SR: new files, vanished ones, sizes, parents."""
    store = world.stores.get(sr)
    if store is None:
        refresh(world, sr)
        return
    db = world.db
    with backend_errors("SR_BACKEND_FAILURE_40"):
        found = store.scan()
    known = {db.row("VDI", ref)["location"]: ref for ref in db.row("SR", sr)["VDIs"]}
    for location, info in found.items():
        ref = known.get(location)
        _take(world, sr, ref, info)
        # A library of CDs gives what it finds to be read only.
        if ref is not None and db.row("SR", sr)["type"] == "iso":
            db.update("VDI", ref, read_only=True)
    for location, ref in known.items():
        logs_only = db.row("VDI", ref)["type"] == "cbt_metadata"
        if location not in found and not logs_only:
            drop(world, ref)
    refresh(world, sr)


def note(world: World, sr: str, *locations: str) -> None:
    """Take over what became of single disks: a scan would look at all."""
    store, more = world.stores[sr], 0
    for location in locations:
        # A new base copy may have been merged into its parent already.
        with (
            backend_errors("SR_BACKEND_FAILURE_40"),
            contextlib.suppress(Missing),
        ):
            info = store.info(location)
            ref = _at(world, sr, location)
            known = world.db.row("VDI", ref)["physical_utilisation"] if ref else 0
            _take(world, sr, ref, info)
            more += info.physical_bytes - known
    _sum(world, sr, more)


def gone(world: World, sr: str, size: int) -> None:
    """Write the SR's sums again after ``size`` bytes of its disks went."""
    _sum(world, sr, -size)


def _sum(world: World, sr: str, more: int) -> None:
    db, row = world.db, world.db.row("SR", sr)
    sizes = (db.row("VDI", ref)["virtual_size"] for ref in row["VDIs"])
    db.update(
        "SR",
        sr,
        physical_utilisation=max(0, row["physical_utilisation"] + more),
        virtual_allocation=sum(sizes),
    )


def _at(world: World, sr: str, location: str) -> str | None:
    """Return the VDI at a location of an SR."""
    db = world.db
    # Mostly a disk lies at the place that its uuid names.
    for ref in [*db.find("VDI", uuid=location), *db.row("SR", sr)["VDIs"]]:
        row = db.row("VDI", ref)
        if (row["SR"], row["location"]) == (sr, location):
            return ref
    return None


def _take(world: World, sr: str, ref: str | None, info: VhdInfo) -> None:
    db, fields = world.db, facts(world.stores[sr], info)
    if ref is None:
        _introduce(world, sr, fields, info)
        return
    config = db.row("VDI", ref)["sm_config"]
    kept = {key: value for key, value in config.items() if key != "vhd-parent"}
    fields["sm_config"] = {**kept, **fields["sm_config"]}
    db.update("VDI", ref, managed=not info.hidden, **fields)


def _introduce(world: World, sr: str, fields: Row, info: VhdInfo) -> None:
    values: Row = {
        "SR": sr,
        "type": "user",
        "location": info.uuid,
        "managed": not info.hidden,
        "read_only": info.hidden,
        "metadata_of_pool": "",
        **fields,
    }
    if fields["sm_config"].get("vdi_type"):
        values["uuid"] = info.uuid
        values["name_label"] = "base copy" if info.hidden else ""
    else:
        shared = sr_kinds.KINDS[world.db.row("SR", sr)["type"]].content == "raw"
        values.update(name_label=info.uuid, read_only=shared, sharable=shared)
    world.db.create("VDI", values)


def drop(world: World, ref: str) -> None:
    """Remove a VDI and its VBDs from the database."""
    for vbd in world.db.row("VDI", ref)["VBDs"]:
        world.db.destroy("VBD", vbd)
    for snapshot in world.db.row("VDI", ref)["snapshots"]:
        world.db.update("VDI", snapshot, snapshot_of=NULL)
    world.db.destroy("VDI", ref)


def refresh(world: World, sr: str) -> None:
    """Write the SR's sums again after its disks changed."""
    store = world.stores.get(sr)
    if store is None:
        world.db.update("SR", sr, physical_size=0, physical_utilisation=0)
        return
    db = world.db
    rows = [db.row("VDI", ref) for ref in db.row("SR", sr)["VDIs"]]
    db.update(
        "SR",
        sr,
        physical_utilisation=store.used_bytes(),
        physical_size=store.size_bytes,
        virtual_allocation=sum(row["virtual_size"] for row in rows),
    )
