# SPDX-License-Identifier: Apache-2.0
"""The file in which a simulation's state outlives the process.

One SQLite database in the state folder. What one call changed is one transaction: a
process that is killed at any moment leaves the state before it or after it. The
folder belongs to one process at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE = "state.sqlite"
LOCK = "lock"
FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS object (
    pool INTEGER, class TEXT, ref TEXT, created INTEGER, modified INTEGER, row TEXT,
    PRIMARY KEY (pool, class, ref)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (
    pool INTEGER, name TEXT, value TEXT, PRIMARY KEY (pool, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (path TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# Facts of the whole simulation are kept as those of no pool.
NO_POOL = -1


class StateRefused(Exception):
    """A state folder cannot be used; str() is one sentence that says why."""


@dataclass
class Stored:
    """An object as it is kept: generations, and its fields as text."""

    cls: str
    ref: str
    created: int
    modified: int
    row: str


@dataclass
class Change:
    """What one transaction writes for a pool."""

    pool: int
    written: list[Stored] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


class Ledger:
    """An open state folder, this process's alone until :meth:`close`.

    :raises StateRefused: another process has it, or another release wrote it
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self._lock_file = _claim(self.folder)
        self._lock = threading.RLock()
        try:
            self._db = _open(self.folder / FILE)
        except BaseException:
            os.close(self._lock_file)
            raise

    def close(self) -> None:
        """Let go of the folder; can be called again."""
        with self._lock:
            self._db.close()
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def write(self, changes: Iterable[Change], made: Iterable[str] = ()) -> None:
        """Write changes as one; the files that were made for them are there to stay."""
        with self._transaction() as db:
            for change in changes:
                _write(db, change)
            db.executemany("DELETE FROM made WHERE path = ?", [(p,) for p in made])

    def drop_pools_but(self, pools: Iterable[int]) -> None:
        """Forget all pools but these."""
        with self._transaction() as db:
            for pool in set(self.pools()) - set(pools):
                db.execute("DELETE FROM object WHERE pool = ?", (pool,))
                db.execute("DELETE FROM fact WHERE pool = ?", (pool,))

    def objects(self, pool: int) -> list[Stored]:
        """Return the objects of a pool in the order of their creation."""
        with self._lock:
            found = self._db.execute(
                "SELECT class, ref, created, modified, row FROM object"
                " WHERE pool = ? ORDER BY created",
                (pool,),
            )
            return [Stored(*line) for line in found]

    def pools(self) -> list[int]:
        """Return the numbers of the pools."""
        with self._lock:
            found = self._db.execute("SELECT DISTINCT pool FROM fact ORDER BY pool")
            return [pool for (pool,) in found if pool != NO_POOL]

    def clear(self) -> None:
        """Forget everything."""
        with self._transaction() as db:
            for table in ("object", "fact", "made"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 (names of ours)

    def facts(self, pool: int) -> dict[str, str]:
        """Return the facts of a pool."""
        with self._lock:
            found = self._db.execute(
                "SELECT name, value FROM fact WHERE pool = ?", (pool,)
            )
            return dict(found.fetchall())

    def note_made(self, path: str) -> None:
        """Write down that a file is about to be made for the next :meth:`write`."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO made VALUES (?)", (path,))

    def made(self) -> list[str]:
        """Return the files that were made for what was never written."""
        with self._lock:
            found = self._db.execute("SELECT path FROM made")
            return [path for (path,) in found]


def _claim(folder: Path) -> int:
    """Return the descriptor whose lock says that the folder is ours.

    The lock goes with the process, however it ends.
    """
    number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(number, 32).decode(errors="replace").strip() or "unknown"
        os.close(number)
        text = f"The state folder {folder} is in use by process {owner}."
        raise StateRefused(text) from error
    os.ftruncate(number, 0)
    os.write(number, f"{os.getpid()}\n".encode())
    return number


def _open(file: Path) -> sqlite3.Connection:
    try:
        # SQLite would let all read it, passwords too; its other files follow this one.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        found = db.execute("PRAGMA user_version").fetchone()[0]
        names = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found != FORMAT and names:
            db.close()
            raise StateRefused(
                f"The state in {file} has format {found}; this release reads {FORMAT}."
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {FORMAT};COMMIT;")
    except (OSError, sqlite3.DatabaseError) as error:
        raise StateRefused(f"The state in {file} cannot be read: {error}.") from error
    return db


def _write(db: sqlite3.Connection, change: Change) -> None:
    pool = change.pool
    db.executemany(
        "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)",
        [
            (pool, one.cls, one.ref, one.created, one.modified, one.row)
            for one in change.written
        ],
    )
    db.executemany(
        "DELETE FROM object WHERE pool = ? AND class = ? AND ref = ?",
        [(pool, cls, ref) for cls, ref in change.gone],
    )
    db.executemany(
        "INSERT OR REPLACE INTO fact VALUES (?, ?, ?)",
        [(pool, name, value) for name, value in change.facts.items()],
    )
