# SPDX-License-Identifier: Apache-2.0
"""Break a build at every XAPI call that it makes, and look at what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nova import exception as nova_exception

from tests import builders, fixtures

REFUSAL = ["INTERNAL_ERROR", "a fault that the test put here"]

# A task that stays for an hour costs a build nothing: XAPI removes it itself.
HARMLESS = ("task.destroy",)


@dataclass(frozen=True)
class Break:
    """One build that was broken.

    :ivar method: the call that failed
    :ivar number: its position among the build's calls
    :ivar failed: the build ended with an error of Nova's
    :ivar before: what was on the host, by ``on_host``
    :ivar after: what is on it now
    """

    method: str
    number: int
    failed: bool
    before: dict
    after: dict


def on_host(rig: fixtures.Rig) -> dict:
    """Return what is on the host, less how the SR arranges its files.

    A clone gives its image a parent file, which goes when the SR coalesces.
    """
    found = rig.sim.inventory()
    found.pop("files")
    return found


# What can go wrong with a call, as a rule of the embedded host: that it is refused,
# that it is carried out and an error is answered, and what a session survives.
REFUSED = {"error": REFUSAL}
REFUSED_AFTER = {"error": REFUSAL, "after": True}
SURVIVED = {
    "cut": {"action": "cut"},
    "cut after": {"action": "cut", "after": True},
    "expired": {"action": "expire"},
    "restart": {"action": "restart"},
    "restart after": {"action": "restart", "after": True},
}


def break_everywhere(rig: fixtures.Rig, trouble: dict[str, Any]) -> Iterator[Break]:
    """Break builds of a cached image at each of their calls in turn.

    :param trouble: of those above
    """
    _calls_of_a_build(rig)  # the image is cached from here on
    calls = _calls_of_a_build(rig)
    before = on_host(rig)
    for number, method in enumerate(calls):
        if method in HARMLESS and "error" in trouble:
            continue
        # What is refused is the work, what is lost is the answer to its beginning.
        hit = method.removeprefix("Async.") if "error" in trouble else method
        earlier = calls[:number].count(method)
        rig.sim.faults.add(hit, skip=earlier, **trouble)
        instance = builders.instance(rig.image_id)
        failed = False
        try:
            rig.spawn(instance)
        except nova_exception.NovaException:
            failed = True
        rig.sim.faults.clear()
        # The compute manager destroys after every failed build.
        rig.destroy(instance)
        yield Break(method, number, failed, before, on_host(rig))


def _calls_of_a_build(rig: fixtures.Rig) -> list[str]:
    instance = builders.instance(rig.image_id)
    with rig.recording() as made:
        rig.spawn(instance, active=False)
    rig.destroy(instance)
    return list(made)
