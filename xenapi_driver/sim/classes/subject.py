# SPDX-License-Identifier: Apache-2.0
"""Class subject: a user or group of a directory, and what it may do."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message


@message("subject.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Let a directory's user or group in, with the role that the model names."""
    if call.db.find("subject", subject_identifier=record["subject_identifier"]):
        raise Failure("SUBJECT_ALREADY_EXISTS")
    return call.db.create("subject", record)


@message("subject.add_to_roles")
def add_to_roles(call: Call, ref: str, role: str) -> None:
    """Let a subject do what a role may."""
    roles = call.db.row("subject", ref)["roles"]
    if not call.db.exists("role", role):
        raise Failure("ROLE_NOT_FOUND")
    if role in roles:
        raise Failure("ROLE_ALREADY_EXISTS")
    call.db.update("subject", ref, roles=[*roles, role])


@message("subject.remove_from_roles")
def remove_from_roles(call: Call, ref: str, role: str) -> None:
    """Take a role from a subject."""
    roles = call.db.row("subject", ref)["roles"]
    if role not in roles:
        raise Failure("ROLE_NOT_FOUND")
    call.db.update("subject", ref, roles=[one for one in roles if one != role])
