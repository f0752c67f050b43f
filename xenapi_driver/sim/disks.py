# SPDX-License-Identifier: Apache-2.0
"""VDI objects kept true to the files of their SR."""

import contextlib
from collections.abc import Iterator
from typing import Any

from xenapi_driver.sim.block_devices import NoBlockDevices
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import (
    BadSize,
    Broken,
    ChainTooLong,
    Missing,
    NoSpace,
    SrStore,
    VhdInfo,
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
    except ChainTooLong as error:
        text = f"Snapshot chain too long: {error}"
        raise Failure("SR_BACKEND_FAILURE_109", "", text, "") from error
    except (Broken, Missing, NoBlockDevices) as error:
        text = f"The VDI is not available [opterr={error}]"
        raise Failure(fallback, "", text, "") from error


def require_attached(world: World, sr: str) -> None:
    """Refuse work on an SR that no host has plugged.

    :raises Failure: SR_HAS_NO_PBDS, SR_NOT_ATTACHED
    """
    pbds = world.db.row("SR", sr)["PBDs"]
    if not pbds:
        raise Failure("SR_HAS_NO_PBDS", sr)
    if not any(world.db.row("PBD", pbd)["currently_attached"] for pbd in pbds):
        raise Failure("SR_NOT_ATTACHED", sr)


def store_of(world: World, sr: str) -> SrStore:
    """Return the files of an SR whose disks can be changed.

    :raises Failure: SR_NOT_ATTACHED, SR_OPERATION_NOT_SUPPORTED
    """
    require_attached(world, sr)
    try:
        return world.stores[sr]
    except KeyError:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr) from None


def facts(info: VhdInfo) -> dict[str, Any]:
    """Return what the files say of a disk, as VDI fields."""
    sm_config = {"vdi_type": "vhd"}
    if info.parent:
        sm_config["vhd-parent"] = info.parent
    return {
        "virtual_size": info.virtual_size,
        "physical_utilisation": info.physical_bytes,
        "sm_config": sm_config,
    }


def scan(world: World, sr: str) -> None:
    """Take over what is on the SR: new files, vanished ones, sizes, parents."""
    store = world.stores.get(sr)
    if store is None:
        return
    db = world.db
    with backend_errors("SR_BACKEND_FAILURE_40"):
        found = store.scan()
    known = {db.row("VDI", ref)["uuid"]: ref for ref in db.row("SR", sr)["VDIs"]}
    for uuid, info in found.items():
        if uuid not in known:
            _introduce(world, sr, info)
            continue
        ref = known[uuid]
        kept = {
            key: value
            for key, value in db.row("VDI", ref)["sm_config"].items()
            if key != "vhd-parent"
        }
        fields = facts(info)
        fields["sm_config"] = {**kept, **fields["sm_config"]}
        db.update("VDI", ref, managed=not info.hidden, **fields)
    for uuid, ref in known.items():
        if uuid not in found:
            drop(world, ref)
    refresh(world, sr)


def _introduce(world: World, sr: str, info: VhdInfo) -> None:
    world.db.create(
        "VDI",
        {
            "uuid": info.uuid,
            "SR": sr,
            "type": "user",
            "name_label": "base copy" if info.hidden else "",
            "location": info.uuid,
            "managed": not info.hidden,
            "read_only": info.hidden,
            "metadata_of_pool": "",
            **facts(info),
        },
    )


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
