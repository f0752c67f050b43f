# SPDX-License-Identifier: Apache-2.0
"""XAPI's task: a call that the host works on by itself."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client

# In other_config of a task: who began it, and with which call. XAPI puts there
# what a request's headers name (xen-api, ocaml/xapi/context.ml,
# get_http_other_config), in lower case.
LABEL_HEADER = "X-Http-Other-Config-"
ORIGINATOR_LABEL = "originator"
CALL_LABEL = "call"


def headers(originator: str, label: str) -> dict[str, str]:
    """Return the headers by which the host's task of a call is known again."""
    return {
        LABEL_HEADER + ORIGINATOR_LABEL: originator,
        LABEL_HEADER + CALL_LABEL: label,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class TaskRecord:
    """What we read of one ``task.get_record``: a snapshot, not a live object.

    :ivar status: pending, cancelling, success, failure or cancelled
    :ivar progress: 0.0 to 1.0
    :ivar result: XML-RPC text of the value, or what a client has set
    :ivar error_info: code and parameters of a failure
    """

    XAPI_CLASS: ClassVar[str] = "task"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    name_label: str
    name_description: str
    status: str
    progress: float
    result: str
    error_info: tuple[str, ...]
    other_config: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> TaskRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            name_description=rec["name_description"],
            status=rec["status"],
            progress=float(rec["progress"]),
            result=rec["result"],
            error_info=tuple(rec["error_info"]),
            other_config=rec["other_config"],
        )

    @property
    def ended(self) -> bool:
        """Whether the host is through with it."""
        return self.status not in ("pending", "cancelling")


def get(session: Client, ref: str) -> TaskRecord:
    """Return the task.

    :raises HandleInvalid: the host has forgotten it
    """
    return TaskRecord.from_xapi(ref, session.call("task.get_record", ref))


def create(session: Client, label: str, description: str) -> str:
    """Make a task that stays pending until an HTTP handler or we end it.

    :param description: the session's signature, so that it is known as ours
    """
    return str(session.call("task.create", label, description))


def cancel(session: Client, ref: str) -> None:
    """Ask the host to stop; it may take its time, or be through already."""
    session.call("task.cancel", ref)


def destroy(session: Client, ref: str) -> None:
    """Remove a task; one under way goes when it ends; gone counts as done."""
    with contextlib.suppress(errors.HandleInvalid):
        session.call("task.destroy", ref)
