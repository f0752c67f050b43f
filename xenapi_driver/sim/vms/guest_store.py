# SPDX-License-Identifier: Apache-2.0
"""What the xenstore of a host holds of a guest, and what comes back from it.

Of ``VM.xenstore_data`` only keys below ``vm-data`` and ``FIST`` reach the guest. What
it, or dom0, writes below ``vm-data`` becomes part of the field ("XAPI today", 15).
"""

import contextlib

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.world import World
from xenapi_driver.sim.xenstore import Refusal, Xenstore
from xenapi_driver.sim.xenstore_client import RemoteXenstore

_SEEN = ("vm-data/", "FIST/")
_BACK = "vm-data"
_DOMAINS = "/local/domain/"

Store = Xenstore | RemoteXenstore


def _store(world: World, row: Row) -> Store:
    return world.dom0_of(row["resident_on"]).xenstore


def _home(row: Row) -> str:
    return f"{_DOMAINS}{row['domid']}"


def _data(row: Row) -> dict[str, bytes]:
    home = _home(row)
    return {
        f"{home}/{key}": value.encode()
        for key, value in row["xenstore_data"].items()
        if key.startswith(_SEEN)
    }


def check(row: Row) -> None:
    """Refuse data that the store would refuse.

    :raises Failure: INTERNAL_ERROR, as when the toolstack cannot build the domain
    """
    scratch = Xenstore()
    try:
        scratch.write_many(_data({**row, "domid": 1}))
    except Refusal as refusal:
        text = f"Xs_protocol.Error({refusal.errno}): vm-data"
        raise Failure("INTERNAL_ERROR", text) from refusal


def enter(world: World, vm: str) -> None:
    """Write down a domain that was built."""
    row = world.db.row("VM", vm)
    home, uuid = _home(row), row["uuid"]
    values = {
        "name": row["name_label"],
        "domid": str(row["domid"]),
        "vm": f"/vm/{uuid}",
        "memory/target": str(row["memory_target"] // 1024),
        "memory/static-max": str(row["memory_static_max"] // 1024),
    }
    texts = {f"{home}/{key}": text.encode()[:2048] for key, text in values.items()}
    store = _store(world, row)
    store.write_many({**texts, f"/vm/{uuid}/uuid": uuid.encode(), **_data(row)})
    for name in ("attr", "control", "data", _BACK):
        store.mkdir(f"{home}/{name}")


def leave(world: World, row: Row) -> None:
    """Remove a domain that goes, by the row that it had."""
    if row["domid"] <= 0:
        return
    for path in (_home(row), f"/vm/{row['uuid']}"):
        # Somebody in dom0 may have removed it already.
        with contextlib.suppress(Refusal):
            _store(world, row).remove(path)


def rewrite(world: World, vm: str) -> None:
    """Replace what the guest sees of ``xenstore_data``."""
    row = world.db.row("VM", vm)
    if row["domid"] <= 0:
        return
    check(row)
    store = _store(world, row)
    for name in ("vm-data", "FIST"):
        with contextlib.suppress(Refusal):
            store.remove(f"{_home(row)}/{name}")
    store.write_many(_data(row))
    store.mkdir(f"{_home(row)}/{_BACK}")


def tell(world: World, vm: str, values: dict[str, str]) -> None:
    """Write what the guest's agent has to say of it, keys below its home."""
    row = world.db.row("VM", vm)
    home = _home(row)
    texts = {f"{home}/{key}": text.encode() for key, text in values.items()}
    _store(world, row).write_many(texts)


def go_on(world: World) -> None:
    """Follow a pool's stores from now on; the guests that run are in them."""
    dom0s = {world.dom0.root: world.dom0}
    dom0s.update({dom0.root: dom0 for dom0 in world.dom0s.values()})
    for dom0 in dom0s.values():
        _follow(world, dom0.xenstore)
    with world.db.changed:
        for vm, row in world.db.rows("VM"):
            if row["domid"] > 0:
                enter(world, vm)


def _follow(world: World, store: Store) -> None:
    """Take over what is written below a guest's ``vm-data``."""

    def changed(path: str) -> None:
        number, _, rest = path.removeprefix(_DOMAINS).partition("/")
        ours = path.startswith(_DOMAINS) and number.isdigit() and int(number) > 0
        if ours and rest.split("/")[0] == _BACK:
            # Later and elsewhere: the writer may hold what we need.
            world.alarms.after(0.0, lambda: _take_back(world, int(number)))

    store.watch(changed)


def _take_back(world: World, domid: int) -> None:
    db = world.db
    with db.changed:
        found = db.find("VM", domid=domid)
        if world.closing.is_set() or not found:
            return
        row = db.row("VM", found[0])
        store, home = _store(world, row), _home(row)
        kept = {
            key: value
            for key, value in row["xenstore_data"].items()
            if not key.startswith(f"{_BACK}/")
        }
        with contextlib.suppress(Refusal):
            kept.update(_below(store, home, _BACK))
            db.update("VM", found[0], xenstore_data=kept)


def _below(store: Store, home: str, key: str) -> dict[str, str]:
    """Return the values below a key, that of a key with others below it left out."""
    found = {}
    for name in store.list(f"{home}/{key}"):
        inner = f"{key}/{name}"
        deeper = _below(store, home, inner)
        value = store.read(f"{home}/{inner}").decode(errors="replace")
        if value or not deeper:
            found[inner] = value
        found.update(deeper)
    return found
