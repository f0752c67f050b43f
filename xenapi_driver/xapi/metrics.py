# SPDX-License-Identifier: Apache-2.0
"""What a host has measured of itself and of the VMs that run on it, newest values.

A host keeps the values of its own (round-robin archives) and answers
``/rrd_updates`` with a table: a legend such as ``AVERAGE:vm:<uuid>:cpu0``, and rows
of values, newest first ("XAPI today", section 17). The names of the data sources
and their units are the host's: ``cpu0`` 0.0 to 1.0, ``memory`` bytes,
``memory_internal_free`` KiB, ``vif_0_rx`` and ``vbd_xvda_read`` bytes a second.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xenapi_driver.xapi import errors, handlers
from xenapi_driver.xapi.client import Client

# Archives begin with samples of so many seconds.
_STEP = 5
# How far back the newest sample may lie, and our clock be ahead of the host's.
_BACK = 3 * _STEP
_MOST_BYTES = 256 << 20

Values = Mapping[str, float]


@dataclass(frozen=True)
class Metrics:
    """The newest values that a host has.

    A source without a known value is missing: one that has just begun, for example.

    :ivar time: end of the newest sample, seconds since the epoch by the host's clock
    :ivar host: the host's own, by data source
    :ivar vms: by the VM's UUID, then by data source; halted VMs are not there
    """

    time: int
    host: Values
    vms: Mapping[str, Values]


def of_host(session: Client, host_ref: str | None = None) -> Metrics:
    """Return the newest values of a host and all its running VMs, in one request.

    A second one is needed where the host's clock is some seconds behind ours.

    :param host_ref: None for our own host
    :raises HostUnreachable: no connection
    :raises ConnectionLost: cut
    :raises HandlerRefused: the host does not tell
    :raises BadAnswer: what it tells is no table
    """
    return _newest(session, host_ref or session.host_ref, {"vm_uuid": "all"}, "true")


def of_vm(session: Client, vm_uuid: str, host_ref: str | None = None) -> Values:
    """Return the newest values of one running VM by data source, in one request.

    :param host_ref: where it runs, as no other host knows; None for our own host
    :returns: empty when it does not run there
    :raises XapiError: as :func:`of_host`
    """
    wanted = {"vm_uuid": vm_uuid}
    found = _newest(session, host_ref or session.host_ref, wanted, "false")
    return found.vms.get(vm_uuid, {})


def _newest(
    session: Client, host_ref: str, wanted: Mapping[str, str], with_host: str
) -> Metrics:
    arguments = {"cf": "AVERAGE", "json": "true", "host": with_host, **wanted}
    arguments["start"] = str(int(time.time()) - _BACK)
    table = _table(session, arguments, host_ref)
    if not table["data"]:
        # By the host's clock that was in the future; its table says what time it is.
        arguments["start"] = str(int(table["meta"]["end"]) - _BACK)
        table = _table(session, arguments, host_ref)
    return _read(session, table)


def _table(session: Client, arguments: Mapping[str, str], host_ref: str) -> Any:
    request = handlers.Request("GET", "/rrd_updates", arguments)
    talk = handlers.ask(session, request, host_ref)
    body = talk.whole(_MOST_BYTES)
    try:
        # Values may be bare NaN and Infinity, which json takes.
        table = json.loads(body)
        if int(table["meta"]["end"]) >= 0 and isinstance(table["data"], list):
            return table
    except (ValueError, LookupError, TypeError):
        pass
    raise errors.BadAnswer(talk.url, "metrics that are no table in JSON")


def _read(session: Client, table: Mapping[str, Any]) -> Metrics:
    host: dict[str, float] = {}
    vms: dict[str, dict[str, float]] = {}
    rows = table["data"]
    columns = zip(*(row["values"] for row in rows), strict=True)
    for name, column in zip(table["meta"]["legend"], columns, strict=False):
        kind, owner, source = name.split(":", 3)[1:]
        value = _known(column)
        if value is None:
            continue
        if kind == "host":
            host[source] = value
        elif kind == "vm":
            vms.setdefault(owner, {})[source] = value
    newest = max((int(row["t"]) for row in rows), default=0)
    return Metrics(newest, host, vms)


def _known(column: Iterable[Any]) -> float | None:
    """Return the first value that is one, of a column that is newest first."""
    for text in column:
        try:
            value = float(text)
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return None
