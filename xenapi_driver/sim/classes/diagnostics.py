# SPDX-License-Identifier: Apache-2.0
"""Class Diagnostics: what the toolstack tells of itself to those who mend it."""

import gc

from xenapi_driver.sim.messages import Call, message


@message("Diagnostics.gc_compact")
def gc_compact(call: Call, host: str) -> None:
    """Free memory that nobody uses."""
    gc.collect()


@message("Diagnostics.gc_stats")
def gc_stats(call: Call, host: str) -> dict[str, str]:
    """Return how much the collector of garbage did."""
    young, old, oldest = gc.get_stats()
    return {
        "minor_collections": str(young["collections"] + old["collections"]),
        "major_collections": str(oldest["collections"]),
        "live_objects": str(len(gc.get_objects())),
    }


@message("Diagnostics.db_stats")
def db_stats(call: Call) -> dict[str, str]:
    """Return how much the database holds."""
    found = {cls: call.db.count(cls) for cls in call.db.schema.classes}
    return {f"{cls} rows": str(count) for cls, count in found.items() if count}


@message("Diagnostics.network_stats")
def network_stats(call: Call, host: str, options: dict[str, str]) -> list[list[str]]:
    """Return how many calls came in: nobody counts them by what they are."""
    return []
