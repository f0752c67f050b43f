# SPDX-License-Identifier: Apache-2.0
"""Archived values as XML and JSON, in the forms that hosts have."""

import json
import math
from typing import Any
from xml.sax.saxutils import escape  # noqa: S406 (escape only writes)

from xenapi_driver.sim.metrics.archives import ARCHIVES, KINDS, STEP, Column, Table
from xenapi_driver.sim.metrics.measures import Owner
from xenapi_driver.sim.world import World

# Seconds after which a value that nobody renewed is unknown.
_HEARTBEAT = 300.0


def number(value: float) -> str:
    """Return a value as hosts write it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "0.0" if value == 0 else f"{value:.4f}"


def _tag(name: str, text: object) -> str:
    return f"<{name}>{escape(str(text))}</{name}>"


def _document(inner: str) -> bytes:
    return f'<?xml version="1.0"?>{inner}'.encode()


# /rrd_updates


def _about(table: Table) -> dict[str, Any]:
    return {
        "start": str(table.start),
        "step": str(table.step),
        "end": str(table.end),
        "rows": str(len(table.rows)),
        "columns": str(len(table.columns)),
    }


def _values(world: World, table: Table, end: int) -> list[str]:
    return [number(one.value(world, end, table.step)) for one in table.columns]


def updates_json(world: World, table: Table) -> bytes:
    """Return a table as JSON; its numbers are strings."""
    legend = [column.name for column in table.columns]
    data = [{"t": str(end), "values": _values(world, table, end)} for end in table.rows]
    document = {"meta": {**_about(table), "legend": legend}, "data": data}
    return json.dumps(document, separators=(",", ":")).encode()


def updates_xml(world: World, table: Table) -> bytes:
    """Return a table as XML."""
    meta = "".join(_tag(name, text) for name, text in _about(table).items())
    legend = "".join(_tag("entry", column.name) for column in table.columns)
    rows = "".join(
        "<row>"
        + _tag("t", end)
        + "".join(_tag("v", value) for value in _values(world, table, end))
        + "</row>"
        for end in table.rows
    )
    meta = f"<meta>{meta}<legend>{legend}</legend></meta>"
    return _document(f"<xport>{meta}<data>{rows}</data></xport>")


# /host_rrd, /vm_rrd


def dump(world: World, owner: Owner, now: float) -> dict[str, Any]:
    """Return all archives of an owner; an archive's rows are oldest first."""
    kinds = KINDS if owner.all_kinds else KINDS[:1]
    sources = owner.recorded(world)
    archives = []
    for kind in kinds:
        lines = [Column(kind, owner, source) for source in sources]
        for archive in ARCHIVES:
            end = int(now) // archive.step * archive.step
            first = end - archive.step * (archive.rows - 1)
            archives.append(
                {
                    "cf": kind,
                    "pdp_per_row": str(archive.step // STEP),
                    "params": {"xff": "0.5000"},
                    "database": [
                        [number(line.value(world, at, archive.step)) for line in lines]
                        for at in range(first, end + 1, archive.step)
                    ],
                }
            )
    return {
        "version": "0003",
        "step": str(STEP),
        "lastupdate": f"{now:.4f}",
        "ds": [
            {
                "name": source.name,
                "type": "GAUGE",
                "minimal_heartbeat": number(_HEARTBEAT),
                "min": "0.0",
                "max": number(source.most),
                "last_ds": number(owner.value(world, source, now)),
                "value": "0.0",
                "unknown_sec": "0",
            }
            for source in sources
        ],
        "rra": archives,
    }


def dump_json(world: World, owner: Owner, now: float) -> bytes:
    """Return all archives of an owner as JSON."""
    return json.dumps(dump(world, owner, now), separators=(",", ":")).encode()


def dump_xml(world: World, owner: Owner, now: float) -> bytes:
    """Return all archives of an owner as XML."""
    content = dump(world, owner, now)
    parts = [_tag(name, content[name]) for name in ("version", "step", "lastupdate")]
    parts += [_element("ds", source) for source in content["ds"]]
    parts += [_archive(archive, len(content["ds"])) for archive in content["rra"]]
    return _document(f"<rrd>{''.join(parts)}</rrd>")


def _element(name: str, content: dict[str, str]) -> str:
    inner = "".join(_tag(key, text) for key, text in content.items())
    return f"<{name}>{inner}</{name}>"


def _archive(archive: dict[str, Any], sources: int) -> str:
    unfinished = _element(
        "ds",
        {
            "primary_value": "0.0",
            "secondary_value": "0.0",
            "value": "0.0",
            "unknown_datapoints": "0",
        },
    )
    rows = "".join(
        "<row>" + "".join(_tag("v", value) for value in row) + "</row>"
        for row in archive["database"]
    )
    head = _tag("cf", archive["cf"]) + _tag("pdp_per_row", archive["pdp_per_row"])
    head += _element("params", archive["params"])
    head += f"<cdp_prep>{unfinished * sources}</cdp_prep>"
    return f"<rra>{head}<database>{rows}</database></rra>"
