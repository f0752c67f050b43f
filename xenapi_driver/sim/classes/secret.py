# SPDX-License-Identifier: Apache-2.0
"""Class secret: a text that other records only point to."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message


@message("secret.introduce")
def introduce(call: Call, uuid: str, value: str, config: dict[str, str]) -> str:
    """Make a secret with a uuid that was used elsewhere."""
    if call.db.find("secret", uuid=uuid):
        raise Failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "secret", "uuid", uuid)
    return call.db.create(
        "secret", {"uuid": uuid, "value": value, "other_config": config}
    )
