# SPDX-License-Identifier: Apache-2.0
"""Class message: what the host has to tell, such as that a VM was started.

Not kept in the database of a real host but in files; here they are rows like others.
"""

from typing import Any

from xenapi_driver.sim.expression import search
from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.world import now

# Classes of objects that a message can be about, where the spelling differs.
_CLASSES = {"Pool": "pool", "Host": "host"}


def _require_object(call: Call, cls: str, uuid: str) -> None:
    """Refuse a uuid that names nothing.

    :raises Failure: UUID_INVALID
    """
    stored = _CLASSES.get(cls, cls)
    if stored in call.db.schema.classes:
        if call.db.find(stored, uuid=uuid):
            return
        raise Failure("UUID_INVALID", cls, uuid)


@message("message.create")
def create(
    call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str
) -> str:
    """Say something about an object."""
    _require_object(call, cls, obj_uuid)
    return call.db.create(
        "message",
        {
            "name": name,
            "priority": priority,
            "cls": cls,
            "obj_uuid": obj_uuid,
            "timestamp": now(),
            "body": body,
        },
    )


@message("message.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a message."""
    call.db.destroy("message", ref)


@message("message.destroy_many")
def destroy_many(call: Call, refs: list[str]) -> None:
    """Remove messages; one that is not there stops it before any is gone."""
    for ref in refs:
        if not call.db.exists("message", ref):
            raise handle_invalid("message", ref)
    for ref in refs:
        call.db.destroy("message", ref)


@message("message.destroy_all")
def destroy_all(call: Call, filters: dict[str, str]) -> None:
    """Remove the messages that lie within the limits, by default all."""
    for name in set(filters) - {"before", "after", "priority"}:
        raise Failure("INVALID_VALUE", "filters", name)
    for ref, row in call.db.rows("message"):
        stamp = str(row["timestamp"])
        if stamp > filters.get("before", stamp) or stamp < filters.get("after", ""):
            continue
        if filters.get("priority", str(row["priority"])) == str(row["priority"]):
            call.db.destroy("message", ref)


def _records(call: Call) -> dict[str, dict[str, Any]]:
    return {ref: call.db.record("message", ref) for ref in call.db.refs("message")}


@message("message.get")
def get(call: Call, cls: str, obj_uuid: str, since: str) -> dict[str, Any]:
    """Return what was said about an object."""
    _require_object(call, cls, obj_uuid)
    return {
        ref: record
        for ref, record in _records(call).items()
        if record["cls"] == cls
        and record["obj_uuid"] == obj_uuid
        and str(record["timestamp"]) >= str(since)
    }


@message("message.get_since")
def get_since(call: Call, since: str) -> dict[str, Any]:
    """Return what was said from a time on."""
    return {
        ref: record
        for ref, record in _records(call).items()
        if str(record["timestamp"]) >= str(since)
    }


@message("message.get_all")
def get_all(call: Call) -> list[str]:
    """Return all messages."""
    return call.db.refs("message")


@message("message.get_all_records")
def get_all_records(call: Call) -> dict[str, Any]:
    """Return all records."""
    return _records(call)


@message("message.get_all_records_where")
def get_all_records_where(call: Call, expression: str) -> dict[str, Any]:
    """Return the records that an expression fits."""
    found = search(call.db, "message", expression)
    return {ref: call.db.record("message", ref) for ref in found}


@message("message.get_record")
def get_record(call: Call, ref: str) -> dict[str, Any]:
    """Return one record."""
    return call.db.record("message", ref)


@message("message.get_by_uuid")
def get_by_uuid(call: Call, uuid: str) -> str:
    """Return the message of a uuid."""
    return call.db.by_uuid("message", uuid)
