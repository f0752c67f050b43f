# SPDX-License-Identifier: Apache-2.0
"""Hosts connected to SRs: what a plug of a PBD does on the storage side."""

import shutil
import uuid as uuidlib
from pathlib import Path
from urllib.parse import quote

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.storage import disks, sr_kinds
from xenapi_driver.sim.storage.raw_store import RawStore
from xenapi_driver.sim.world import World

_PROBE = '<?xml version="1.0" ?>\n<SRlist>\n{}</SRlist>\n'
_PROBED = "\t<SR>\n\t\t<UUID>\n\t\t\t{}\n\t\t</UUID>\n\t</SR>\n"


def directory(world: World, uuid: str) -> Path:
    """Return where dom0 mounts an SR; clients may have chosen any text as uuid."""
    try:
        name = str(uuidlib.UUID(uuid))
    except ValueError:
        name = "odd-" + quote(uuid, safe="")
    return world.dom0.root / "run" / "sr-mount" / name


def _files(world: World, row: Row, config: dict[str, str]) -> Path:
    """Return where dom0 has the files of an SR.

    A library of CDs may be a folder of dom0's own (``legacy_mode``), or one below
    what is mounted (``iso_path``).

    :raises Failure: SR_BACKEND_FAILURE_225, the location leads out of dom0
    """
    if row["type"] == "iso" and config.get("legacy_mode"):
        base, below = world.dom0.root, config["location"]
    else:
        base, below = directory(world, row["uuid"]), config.get("iso_path", "")
    found = (base / below.lstrip("/")).resolve()
    if not found.is_relative_to(world.dom0.root):
        text = "Not a valid ISO location [opterr=it is not inside dom0]"
        raise Failure("SR_BACKEND_FAILURE_225", "", text, "")
    return found


def attach(world: World, sr: str, config: dict[str, str]) -> None:
    """Make the SR's disks reachable and take them into the database.

    :raises Failure: SR_UNKNOWN_DRIVER, SR_BACKEND_FAILURE_*
    """
    row = world.db.row("SR", sr)
    sr_kinds.check_config(row["type"], config)
    world.media[row["uuid"]] = (row["type"], _place(row["type"], config))
    if sr not in world.stores:
        path = _files(world, row, config)
        store = sr_kinds.open_store(row["type"], path, world.sr_size)
        if store is not None:
            world.stores[sr] = store
    disks.scan(world, sr)


def settle(world: World) -> None:
    """Attach the SRs that a fresh host has, and lay down the images they list."""
    db = world.db
    for _, pbd in db.rows("PBD"):
        sr = db.row("SR", pbd["SR"])
        kind = sr_kinds.KINDS[sr["type"]]
        path = _files(world, sr, pbd["device_config"])
        if kind.content == "raw" and pbd["SR"] not in world.stores:
            store = RawStore(path, world.sr_size)
            world.stores[pbd["SR"]] = store
            for vdi in sr["VDIs"]:
                image = db.row("VDI", vdi)
                if not store.path_of(image["location"]).exists():
                    store.create(image["location"], image["virtual_size"])
        attach(world, pbd["SR"], pbd["device_config"])
    world.dom0.settle()


def forget(world: World, sr: str) -> None:
    """Let go of the SR; its data stays."""
    world.stores.pop(sr, None)


def wipe(world: World, sr: str) -> None:
    """Remove the SR's data."""
    store = world.stores.pop(sr, None)
    uuid = world.db.row("SR", sr)["uuid"]
    # A library in a folder of dom0's own is not ours to remove.
    if store is not None and store.path.is_relative_to(directory(world, uuid)):
        shutil.rmtree(store.path, ignore_errors=True)
    world.media.pop(uuid, None)


def probe(world: World, kind: str, config: dict[str, str]) -> str:
    """Return the SRs that were once made at this place, as the driver's XML."""
    wanted = _place(kind, config)
    found = [
        uuid
        for uuid, (made, at) in world.media.items()
        if made == kind and wanted and wanted.items() <= at.items()
    ]
    return _PROBE.format("".join(_PROBED.format(uuid) for uuid in sorted(found)))


def _place(kind: str, config: dict[str, str]) -> dict[str, str]:
    """Return what of a device_config says where the SR is; no password does."""
    return {key: config[key] for key in sr_kinds.KINDS[kind].required if key in config}
