# SPDX-License-Identifier: Apache-2.0
"""Measured values as a host archives them: coarser the longer ago."""

import math
from dataclasses import dataclass

from xenapi_driver.sim.metrics.measures import Owner, Source
from xenapi_driver.sim.world import World

STEP = 5
# Samples that a coarse value is made of.
_SAMPLES = 5


@dataclass(frozen=True)
class Archive:
    """Rows of values, each for some seconds ("XAPI today", section 17)."""

    step: int
    rows: int


ARCHIVES = (
    Archive(STEP, 120),
    Archive(60, 120),
    Archive(3600, 168),
    Archive(86400, 366),
)
KINDS = ("AVERAGE", "MIN", "MAX")


@dataclass(frozen=True)
class Column:
    """One line of values."""

    kind: str
    owner: Owner
    source: Source

    @property
    def name(self) -> str:
        """Return its name in a legend."""
        owner = self.owner
        return f"{self.kind}:{owner.kind}:{owner.uuid}:{self.source.name}"

    def value(self, world: World, end: int, step: int) -> float:
        """Return the value of the ``step`` seconds that end at ``end``."""
        if step <= STEP:
            return self.owner.value(world, self.source, end)
        found = [
            self.owner.value(world, self.source, end - step * part / _SAMPLES)
            for part in range(_SAMPLES)
        ]
        known = [value for value in found if not math.isnan(value)]
        if not known:
            return math.nan
        if self.kind == "AVERAGE":
            return sum(known) / len(known)
        return min(known) if self.kind == "MIN" else max(known)


@dataclass(frozen=True)
class Table:
    """What a caller asked for.

    :ivar rows: end of each, seconds since the epoch, newest first
    """

    start: int
    step: int
    end: int
    rows: tuple[int, ...]
    columns: tuple[Column, ...]


def columns(world: World, owners: list[Owner], kind: str | None) -> list[Column]:
    """Return the columns of all owners, all of one kind if one is given."""
    found = []
    for owner in owners:
        kinds = KINDS if owner.all_kinds else KINDS[:1]
        for each in kinds:
            if kind in (None, each):
                sources = owner.recorded(world)
                found += [Column(each, owner, source) for source in sources]
    return found


def table(now: float, start: int, interval: int, wanted: list[Column]) -> Table:
    """Return what was measured from ``start`` to ``now``.

    It comes from the finest archive that reaches back so far and is no finer than
    ``interval`` seconds; else from the coarsest.
    """
    fitting = [
        archive
        for archive in ARCHIVES
        if archive.step >= interval and now - archive.step * archive.rows < start
    ]
    archive = fitting[0] if fitting else ARCHIVES[-1]
    step = archive.step
    end = int(now) // step * step
    first = (start // step + 1) * step
    count = min(archive.rows, max(0, (end - first) // step + 1))
    rows = tuple(end - step * number for number in range(count))
    return Table(first, step, end, rows, tuple(wanted))
