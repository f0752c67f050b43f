# SPDX-License-Identifier: Apache-2.0
"""What of a simulation is kept in its ledger, and how it comes back.

Kept are all objects but sessions and tasks, which end with the toolstack on a real
host too, and what a pool knows besides its database. Whatever changed while a
database's lock was held is written as one transaction before the lock is let go.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xenapi_driver.sim.dom0 import Dom0
from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.pools.machines import Machine, Machines
from xenapi_driver.sim.registry import Registry, Row, Stamp
from xenapi_driver.sim.schema import Type
from xenapi_driver.sim.state.ledger import NO_POOL, Change, Ledger, Stored
from xenapi_driver.sim.storage import disks, shown_disks, sr_kinds
from xenapi_driver.sim.vms import guest_agent
from xenapi_driver.sim.world import World

# What a toolstack holds in memory only ("XAPI today", sections 2 and 3).
FORGOTTEN = ("session", "task")
# Fields of World that are kept as they are.
FACTS = (
    "username",
    "password",
    "media",
    "sr_size",
    "bridges",
    "nics",
    "compute_vm",
    "next_domid",
    "next_bridge",
    "first_number",
    "addresses",
    "clocks",
    "stay_disabled",
)
# Generations that may be given out before the ledger has to know of them.
_AHEAD = 100_000
_COMPLETE, _LIMIT = "complete", "generation"


def _encode(value: Any) -> Any:
    """Say in JSON which lists are sets and tuples."""
    if isinstance(value, set):
        return {"set": sorted(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    return [_encode(item) for item in value] if isinstance(value, list) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "set":
        return set(inner)
    if kind == "tuple":
        return tuple(_decode(item) for item in inner)
    return {key: _decode(item) for key, item in inner.items()}


def _alone(world: World) -> Any:
    """Return the facts that a call may change without changing an object."""
    return world.password, tuple(world.clocks.items())


def _copied(value: Any) -> Any:
    """Return a fact that later changes in place do not change."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value.copy() if isinstance(value, (set, list)) else value


def _revive(type_: Type, value: Any) -> Any:
    """Return a field's value as it was before it was JSON."""
    if type_.kind == "datetime":
        return Timestamp(value)
    if type_.kind == "set":
        return [_revive(type_.inner[0], item) for item in value]
    if type_.kind == "map":
        return {key: _revive(type_.inner[1], item) for key, item in value.items()}
    return value


def _is_plain(type_: Type) -> bool:
    """Return whether JSON gives such values back as they were; keys are texts."""
    return type_.kind != "datetime" and all(map(_is_plain, type_.inner))


class Keeper:
    """Keeps the pools and machines of one simulation."""

    def __init__(self, ledger: Ledger, machines: Machines) -> None:
        self._ledger = ledger
        self._machines = machines
        self._pools: dict[int, World] = {}
        self._known: dict[int, dict[str, Any]] = {}
        self._last_alone: dict[int, Any] = {}
        self._made = threading.local()
        self._owed: dict[int, list[str]] = {}
        self._kept: dict[str, list[str]] = {}

    @property
    def is_new(self) -> bool:
        """Return whether nothing was kept before."""
        return _COMPLETE not in self._ledger.facts(NO_POOL)

    def clear(self) -> None:
        """Forget what an installation wrote that did not come to its end."""
        self._ledger.clear()

    def close(self) -> None:
        """Keep nothing from now on, and let go of the folder."""
        for world in self._pools.values():
            world.db.guard.before_release = lambda: None
        self._ledger.close()

    # keeping

    def adopt(self, world: World) -> None:
        """Keep a pool: as it is now, and what changes."""
        number = max(self._pools, default=-1) + 1
        db = world.db
        with db.changed:
            classes = [cls for cls in db.schema.classes if cls not in FORGOTTEN]
            everything = [
                self._stored(db, cls, ref) for cls in classes for ref in db.refs(cls)
            ]
            facts = self._news(number, world)
            self._ledger.write([Change(number, everything, facts=facts)])
        self._attach(number, world)

    def begin(self) -> None:
        """Say that the simulation is complete: from now on it is found again."""
        self._ledger.write([Change(NO_POOL, facts={_COMPLETE: "true"})])

    def _attach(self, number: int, world: World) -> None:
        self._pools[number] = world
        self._last_alone[number] = _alone(world)
        world.db.unsaved = {}
        world.db.guard.before_release = self._save
        world.before_making = self._note_made

    def _note_made(self, path: Path) -> None:
        """Have a file removed at the next start unless this thread's call is kept."""
        if not any(world.db.guard.is_owned() for world in self._pools.values()):
            raise RuntimeError("files are made for records under the database's lock")
        name = self._relative(path)
        self._ledger.note_made(name)
        self._made.__dict__.setdefault("names", []).append(name)

    def _save(self) -> None:
        """Write what changed in the pools whose locks this thread holds."""
        held = [
            (number, world)
            for number, world in self._pools.items()
            if world.db.guard.is_owned()
        ]
        made = self._made.__dict__.pop("names", [])
        for number, _ in held:
            made += self._owed.pop(number, [])
        if made or any(self._is_changed(number, world) for number, world in held):
            changes = [self._change(number, world) for number, world in held]
            try:
                self._ledger.write(changes, made)
            except BaseException:
                self._owe(changes, made)
                raise

    def _owe(self, changes: list[Change], made: list[str]) -> None:
        """Have the pools' next change write what could not be written now."""
        for change in changes:
            db, known = self._pools[change.pool].db, self._known[change.pool]
            again = [(one.cls, one.ref) for one in change.written] + change.gone
            db.unsaved = {**dict.fromkeys(again), **(db.unsaved or {})}
            for name in change.facts:
                del known[name]
            self._last_alone.pop(change.pool, None)
            self._owed[change.pool] = list(made)

    def _is_changed(self, number: int, world: World) -> bool:
        """Return whether there is something to write; facts mostly change with rows."""
        alone = _alone(world)
        if not world.db.unsaved and self._last_alone.get(number) == alone:
            return False
        self._last_alone[number] = alone
        return True

    def _change(self, number: int, world: World) -> Change:
        db, change = world.db, Change(number)
        unsaved, db.unsaved = db.unsaved or {}, {}
        for cls, ref in unsaved:
            if cls in FORGOTTEN:
                continue
            if db.exists(cls, ref):
                change.written.append(self._stored(db, cls, ref))
            else:
                change.gone.append((cls, ref))
        change.facts = self._news(number, world)
        return change

    def _stored(self, db: Registry, cls: str, ref: str) -> Stored:
        names = self._kept.get(cls)
        if names is None:
            names = self._kept[cls] = db.kept_fields(cls)
        row, stamp = db.row(cls, ref), db.stamp(cls, ref)
        text = json.dumps({name: row[name] for name in names})
        return Stored(cls, ref, stamp.created, stamp.modified, text)

    def _news(self, number: int, world: World) -> dict[str, str]:
        """Return the facts that the ledger does not have yet, encoded."""
        known = self._known.setdefault(number, {})
        news = {}
        for name, value in self._facts(number, world).items():
            if name not in known or known[name] != value:
                known[name] = _copied(value)
                news[name] = json.dumps(_encode(self._portable(name, value)))
        return news

    def _facts(self, number: int, world: World) -> dict[str, Any]:
        """Return all facts, quickly: paths and such are made portable later."""
        facts = {name: getattr(world, name) for name in FACTS}
        facts["stores"] = {
            sr: (store.path, store.size_bytes) for sr, store in world.stores.items()
        }
        facts["dom0"] = world.dom0.root
        facts["dom0s"] = {host: dom0.root for host, dom0 in world.dom0s.items()}
        facts["machines"] = [
            (one.number, one.address, one.host, one.home)
            for one in self._machines.all
            if one.world is world
        ]
        facts["at_start"] = world.dom0.at_start
        facts["leases"] = world.leases.held
        limit = self._known.get(number, {}).get(_LIMIT, 0)
        far = world.db.generation + _AHEAD
        facts[_LIMIT] = limit if world.db.generation < limit else far
        return facts

    def _portable(self, name: str, value: Any) -> Any:
        """Return a fact with paths as they are below the folder."""
        if name == "dom0":
            return self._relative(value)
        if name == "dom0s":
            return {host: self._relative(root) for host, root in value.items()}
        if name == "machines":
            return [(*rest, self._relative(home)) for *rest, home in value]
        if name == "stores":
            return {
                sr: (self._relative(path), size) for sr, (path, size) in value.items()
            }
        return value

    def _relative(self, path: Path) -> str:
        return path.resolve().relative_to(self._ledger.folder).as_posix()

    # finding again

    def restore(
        self,
        blank: Callable[[Path], World],
        beside: Callable[[Path], Dom0],
    ) -> None:
        """Fill the machines with what was kept; pools that no machine is in go.

        :param blank: makes an empty pool around the dom0 at a path
        :param beside: makes a dom0 at a path
        """
        self._remove_made()
        for pool in self._ledger.pools():
            texts = self._ledger.facts(pool)
            facts = {name: _decode(json.loads(text)) for name, text in texts.items()}
            if facts["machines"]:
                self._restore_pool(pool, facts, blank, beside)
        self._ledger.drop_pools_but(list(self._pools))
        self._machines.all.sort(key=lambda machine: machine.number)

    def settle(self) -> None:
        """Go on with what was found: nothing is under way, files fit records."""
        for world in self._pools.values():
            _settle(world)

    def _remove_made(self) -> None:
        """Remove files whose records were never written."""
        made = self._ledger.made()
        for name in made:
            (self._ledger.folder / name).unlink(missing_ok=True)
        self._ledger.write([], made)

    def _restore_pool(
        self,
        pool: int,
        facts: dict[str, Any],
        blank: Callable[[Path], World],
        beside: Callable[[Path], Dom0],
    ) -> None:
        folder = self._ledger.folder
        world = blank(folder / facts["dom0"])
        for name in FACTS:
            if name in facts:
                setattr(world, name, facts[name])
        dom0s = {world.dom0.root: world.dom0}
        for host, name in facts["dom0s"].items():
            root = folder / name
            if root not in dom0s:
                dom0s[root] = beside(root)
            world.dom0s[host] = dom0s[root]
        world.db.restore(self._objects(pool, world.db), facts[_LIMIT])
        for sr, (name, size) in facts["stores"].items():
            kind = world.db.row("SR", sr)["type"]
            store = sr_kinds.open_store(kind, folder / name, size)
            if store is not None:
                world.stores[sr] = store
        world.dom0.at_start = facts["at_start"]
        world.leases.restore(facts["leases"])
        self._machines.all += [
            Machine(number, address, world, host, folder / home)
            for number, address, host, home in facts["machines"]
        ]
        self._attach(pool, world)

    def _objects(
        self, pool: int, db: Registry
    ) -> Iterator[tuple[str, str, Stamp, Row]]:
        odd = {
            cls: {
                name: about.type
                for name, about in model.fields.items()
                if not _is_plain(about.type)
            }
            for cls, model in db.schema.classes.items()
        }
        for one in self._ledger.objects(pool):
            if one.cls not in odd:
                continue
            row = json.loads(one.row)
            for name, type_ in odd[one.cls].items():
                if name in row:
                    row[name] = _revive(type_, row[name])
            yield one.cls, one.ref, Stamp(one.created, one.modified), row


def _settle(world: World) -> None:
    """Do what a toolstack does when it starts: nothing is under way, SRs are scanned.

    What a killed call did to files is in the records then.
    """
    db = world.db
    with db.changed:
        for cls, model in db.schema.classes.items():
            if "current_operations" in model.fields:
                for ref in db.refs(cls):
                    db.update(cls, ref, current_operations={})
        scanned = []
        for sr in world.stores:
            pbds = db.row("SR", sr)["PBDs"]
            if any(db.row("PBD", pbd)["currently_attached"] for pbd in pbds):
                # A spoilt disk is for the clients to find, as on a real host.
                with contextlib.suppress(Failure):
                    disks.scan(world, sr)
                scanned.append(sr)
        # What devices held reaches the disks before the collector moves these.
        shown_disks.take_up(world)
        for sr in scanned:
            world.collect(sr)
        for vm, row in db.rows("VM"):
            if row["power_state"] == "Running" and not row["is_control_domain"]:
                # An agent that had not come up yet does so now.
                guest_agent.booted(world, vm)
