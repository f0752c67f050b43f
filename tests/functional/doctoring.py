# SPDX-License-Identifier: Apache-2.0
"""Runs ``xenapi-driver doctor`` as the command line does, in this process."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

from xenapi_driver.cmd import app, doctor


@dataclass(frozen=True)
class Told:
    """What the command printed, and its exit status."""

    status: int
    rows: list[dict[str, str]]

    def states(self) -> dict[str, set[str]]:
        """Return the states of each check, in the checks' order."""
        found: dict[str, set[str]] = {}
        for row in self.rows:
            found.setdefault(row["Check"], set()).add(row["State"])
        return found

    def of(self, check: str, state: str) -> list[dict[str, str]]:
        """Return a check's rows in a state."""
        return [r for r in self.rows if (r["Check"], r["State"]) == (check, state)]


def run(*argv: object) -> tuple[int, str]:
    """Run the command; return its exit status and what it printed."""
    application = app.XenapiDriver()
    application.stdout = io.StringIO()
    command = doctor.Doctor(application, None)
    parsed = command.get_parser("xenapi-driver doctor").parse_args(
        [str(word) for word in argv]
    )
    return command.run(parsed), application.stdout.getvalue()


def consult(*files: object) -> Told:
    """Have these configuration files, and what they name, checked."""
    argv = [word for file in files for word in ("--config-file", file)]
    status, printed = run("-f", "json", *argv)
    return Told(status, json.loads(printed))
