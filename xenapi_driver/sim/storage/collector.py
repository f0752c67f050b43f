# SPDX-License-Identifier: Apache-2.0
"""The garbage collector of the storage manager, in the background of a pool."""

from __future__ import annotations

import threading

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.storage import coalesce, disks, shown_disks
from xenapi_driver.sim.storage.vhd_store import Broken, SrStore
from xenapi_driver.sim.world import World

_PATIENCE = 0.02  # seconds


class Collector:
    """A thread that tidies the SRs it was told of; it starts with the first one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[str] = []
        self._working = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def kick(self, sr: str) -> None:
        """Have an SR looked at soon."""
        with self._changed:
            if not isinstance(self._world.stores.get(sr), SrStore):
                return
            if sr not in self._waiting:
                self._waiting.append(sr)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sim-collector", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until nothing is left to do; return whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._waiting or self._working), timeout
            )

    def close(self) -> None:
        """End after the step at hand."""
        self._world.closing.set()
        with self._changed:
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=10)

    def _run(self) -> None:
        closing = self._world.closing
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or closing.is_set())
                if closing.is_set():
                    self._waiting.clear()
                    return
                sr = self._waiting.pop(0)
                self._working = True
            # More may follow: disks are often removed one after the other.
            closing.wait(_PATIENCE)
            self._tidy(sr)

    def _tidy(self, sr: str) -> None:
        store = self._world.stores.get(sr)
        if not isinstance(store, SrStore):
            return
        try:
            while not self._world.closing.is_set():
                step = coalesce.next_step(store, self._is_fixed)
                if step is None:
                    return
                if not coalesce.carry_out(store, step, self._is_fixed):
                    return
                self._record(sr)
        except (Broken, OSError, Failure):
            # The SR was removed, or a file spoiled: the next scan tells the client.
            return

    def _record(self, sr: str) -> None:
        db = self._world.db
        with db.changed:
            if db.exists("SR", sr):
                disks.scan(self._world, sr)

    def _is_fixed(self, uuid: str) -> bool:
        """Return whether a leaf has to keep its place in the chain."""
        world = self._world
        if uuid in world.held_disks:
            return True
        for ref in world.db.find("VDI", uuid=uuid):
            row = world.db.row("VDI", ref)
            if row["other_config"].get("leaf-coalesce") == "false":
                return True
            if row["on_boot"] == "reset":
                return True
            if any(shown_disks.is_shown(world, vbd) for vbd in row["VBDs"]):
                return True
        return False
