# SPDX-License-Identifier: Apache-2.0
"""Is the host as it was, apart from the one cached image?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.cloud import Cloud
from demo.failure import DemoFailure, expect
from demo.host import INTEGRATION_BRIDGE
from demo.waiting import until

# Compared as they are; disks, files and networks have an exception to subtract.
PLAIN = ("VM", "VBD", "VIF", "task", "processes")


def cache_of(disks: dict[str, dict[str, Any]], image_id: str) -> set[str]:
    """The uuids of an image's cached VDI and of the disks that it stands on.

    :raises DemoFailure: there is not exactly one such VDI
    """
    name = f"Glance Image {image_id}"
    found = [uuid for uuid, disk in disks.items() if disk["name_label"] == name]
    # A clone leaves a base copy of the same name, which is not managed.
    leaves = [uuid for uuid in found if disks[uuid]["managed"]]
    expect(len(leaves) == 1, f'one VDI "{name}" in the cache', f"{len(leaves)} of them")
    chain = set()
    uuid: str | None = leaves[0]
    while uuid in disks and uuid not in chain:
        chain.add(uuid)
        uuid = disks[uuid]["sm_config"].get("vhd-parent")
    return chain


def differences(
    before: dict[str, Any], after: dict[str, Any], cached: set[str]
) -> list[str]:
    """What is on the host now and was not, or was and is not; as sentences."""
    found = [
        f"{kind}: {before[kind]} before, {after[kind]} now"
        for kind in PLAIN
        if before[kind] != after[kind]
    ]
    for kind, name in (("VDI", str), ("files", lambda file: Path(file).stem)):
        old, new = set(before[kind]), set(after[kind])
        extra = [x for x in sorted(new - old) if name(x) not in cached]
        if extra:
            found.append(f"{kind} left: {', '.join(extra)}")
        if old - new:
            found.append(f"{kind} lost: {', '.join(sorted(old - new))}")
    return found


def check(cloud: Cloud, before: dict[str, Any], image_id: str) -> str:
    """Compare the host with what it was; the words for the report.

    :raises DemoFailure: something is left, or is lost
    """
    log = cloud.host.log
    cached = cache_of(cloud.host.disks(), image_id)
    last: list[str] = []

    def clean() -> bool:
        # The host's garbage collector takes a moment, as a real one does.
        last[:] = differences(before, cloud.host.admin("inventory"), cached)
        return not last

    try:
        until(clean, "the host as before", log, 15)
    except DemoFailure as exc:
        raise DemoFailure(exc.expected, "; ".join(last), log) from exc
    networks = check_networks(cloud, before)
    instances = sorted(cloud.layout.state.glob("nova/instances/????????-*"))
    expect(not instances, "no folder of an instance", instances)
    return f"as before, but for the cached image (1 VDI){networks}"


def check_networks(cloud: Cloud, before: dict[str, Any]) -> str:
    """All VIFs share one XAPI network of the integration bridge, which stays."""
    records = cloud.host.call("network.get_all_records").values()
    extra = len(records) - before["network"]
    ours = [r for r in records if r["bridge"] == INTEGRATION_BRIDGE]
    expect(
        extra == 0 or (extra == 1 and len(ours) == 1),
        f"at most the one network of {INTEGRATION_BRIDGE} more",
        f"{extra} more networks",
    )
    return f" and the network of {INTEGRATION_BRIDGE}" if extra else ""
