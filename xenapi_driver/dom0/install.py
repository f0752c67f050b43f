# SPDX-License-Identifier: Apache-2.0
"""Lay the scripts over a host, by ``xenapi_dom0/installation.py`` on its side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from xenapi_driver.dom0 import ssh
from xenapi_driver.dom0.tree import PLUGINS, Entry

MODULE = "xenapi_dom0.installation"

UNCHANGED = "unchanged"
KEPT = "kept"


@dataclasses.dataclass(frozen=True)
class Report:
    """What was done on a host.

    :ivar uuid: of the host; "" where it does not say
    :ivar rows: path, what was done (new, updated, unchanged, removed, kept, enabled),
        remark
    :ivar answer: what the plugins there said of themselves afterwards; None: they
        did not answer
    :ivar package: version of our RPM, where the host has it; else ""
    """

    uuid: str
    rows: tuple[tuple[str, str, str], ...]
    answer: Mapping[str, Any] | None
    package: str


class Refused(ssh.SshFailed):
    """The host was reached and did not take the files."""


def install(where: ssh.Target, laid: Sequence[Entry], *, dry_run: bool) -> Report:
    """Lay the files over the host; again is harmless.

    :param dry_run: only say what would be done
    :raises ssh.SshFailed: it was not reached, or refused; the plugins there are the
        old ones or the new ones, all of them
    """
    said = ssh.run(where, laid, MODULE, _request(laid, dry_run))
    try:
        answer = json.loads(said)
        if "failure" in answer:
            code, *params = answer["failure"]
            raise Refused(
                f"{where.host} refused: {code} ({', '.join(params)})", _REMEDY
            )
        return Report(
            uuid=str(answer["host"]["uuid"]),
            rows=tuple((path, what, more) for path, what, more in answer["rows"]),
            answer=answer["answer"],
            package=str(answer["host"]["package"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        shown = said[:200].decode(errors="replace")
        raise ssh.SshFailed(
            f"{where.host} answered {shown!r} instead of a report",
            "see that no login script of root there prints anything",
        ) from exc


_REMEDY = "nothing was changed by this; do what it says and run it again"


def _request(laid: Sequence[Entry], dry_run: bool) -> bytes:
    files = [
        {
            "path": entry.path,
            "size": len(entry.content),
            "mode": entry.mode,
            "digest": entry.digest,
            "config": entry.config,
        }
        for entry in laid
    ]
    head = json.dumps({"dry_run": dry_run, "files": files})
    return head.encode() + b"\n" + b"".join(entry.content for entry in laid)


def summary(report: Report) -> list[tuple[str, str, str]]:
    """Return the report in few rows: the plugins as one, each other file as its own."""
    plugins = [row for row in report.rows if row[0].startswith(f"{PLUGINS}/")]
    apart = [row for row in report.rows if row not in plugins]
    counts: dict[str, int] = {}
    for _path, what, _remark in plugins:
        counts[what] = counts.get(what, 0) + 1
    changed = {what: count for what, count in counts.items() if what != UNCHANGED}
    state = UNCHANGED
    if changed:
        state = "new" if set(counts) == {"new"} else "updated"
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    rows = [(f"/{PLUGINS}", state, f"{len(plugins)} files: {told}")]
    # Each that goes or stays against the release is worth a look.
    rows += [(f"/{path}", what, more) for path, what, more in plugins if more]
    rows += [
        (f"/{path}" if "/" in path else path, what, more) for path, what, more in apart
    ]
    return rows
