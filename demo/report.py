# SPDX-License-Identifier: Apache-2.0
"""What the demo prints: progress, the table at the end, the failure."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.failure import DemoFailure


@dataclasses.dataclass(frozen=True)
class Line:
    """One step that was seen to be true.

    :ivar seconds: how long the step took, without the look at what it did
    :ivar requests: XenAPI requests that arrived at the host meanwhile, by method
    :ivar bar: the most requests that it may take, or None
    """

    step: str
    seconds: float
    requests: dict[str, int]
    bar: int | None
    seen: str

    @property
    def total(self) -> int:
        return sum(self.requests.values())


def table(lines: list[Line]) -> Table:
    made = Table(title="The main job", title_justify="left")
    made.add_column("step")
    made.add_column("time", justify="right")
    made.add_column("XAPI requests", justify="right")
    made.add_column("seen")
    for line in lines:
        bar = f" (at most {line.bar})" if line.bar is not None else ""
        made.add_row(
            line.step, f"{line.seconds:.1f} s", f"{line.total}{bar}", line.seen
        )
    return made


def as_json(lines: list[Line]) -> str:
    return json.dumps([dataclasses.asdict(line) for line in lines], indent=2)


def show_failure(console: Console, failure: DemoFailure) -> None:
    """The failing step, what was expected, what was seen, which log to read."""
    console.print("[bold red]The demo failed[/]")
    rows = (
        ("step", failure.step or "start"),
        ("expected", failure.expected),
        ("seen", failure.seen),
        ("log to read", str(failure.log or "none: see above")),
    )
    for name, text in rows:
        console.print(f"  {name + ':':<13}{escape(text)}", soft_wrap=True)
