# SPDX-License-Identifier: Apache-2.0
"""Class pool: one object that stands for all hosts."""

from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row


@computed("pool", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what the pool takes now."""
    return ["ha_enable", "cluster_create", "designate_new_master"]


@message("pool.sync_database")
def sync_database(call: Call) -> None:
    """Do nothing: there is one database."""


@message("pool.has_extension")
def has_extension(call: Call, pool: str, name: str) -> bool:
    """Return whether all hosts have an extension: none has."""
    return False
