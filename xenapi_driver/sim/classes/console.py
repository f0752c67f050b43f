# SPDX-License-Identifier: Apache-2.0
"""Class console: made and removed with a guest's domain, never by a client."""

from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message


@message("console.create")
def create(call: Call, record: dict[str, Any]) -> None:
    """Refuse, as a real host does."""
    raise Failure("NOT_IMPLEMENTED", "Console.create")


@message("console.destroy")
def destroy(call: Call, ref: str) -> None:
    """Refuse, as a real host does."""
    raise Failure("NOT_IMPLEMENTED", "Console.destroy")
