# SPDX-License-Identifier: Apache-2.0
"""Break an operation at every step and every call that it makes, and look.

An operation is what the compute manager asks for. It is done once to learn its calls,
and then again for each of them and each trouble, on the same host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from nova import exception as nova_exception
from oslo_log import log as logging

from tests import builders, fixtures
from xenapi_driver import flow

LOG = logging.getLogger(__name__)

WORDS = "a fault that the test put here"
REFUSAL = ["INTERNAL_ERROR", WORDS]

# A task that stays for an hour costs nothing: XAPI removes it itself.
HARMLESS = ("task.destroy", "task.cancel")

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
# Those of issue 6's sweep: error before, error after the effect, cut connection.
TROUBLES = {
    "refused": REFUSED,
    "refused after": REFUSED_AFTER,
    "cut": SURVIVED["cut"],
    "cut after": SURVIVED["cut after"],
}

_DISK_FILE = re.compile(r".*/[0-9a-f-]{36}\.vhd")


@dataclass(frozen=True)
class Operation:
    """What is broken again and again.

    :ivar ready: makes what it works on, without trouble
    :ivar act: does it, with trouble
    :ivar settle: what the compute manager does afterwards, without trouble, after
        which the host must be as before ``ready``
    """

    ready: Callable[[], Any]
    act: Callable[[Any], None]
    settle: Callable[[Any], None]


@dataclass(frozen=True)
class Break:
    """One operation that was broken.

    :ivar method: the call, or the step, that failed
    :ivar number: its position among the operation's calls
    :ivar trouble: name of what happened to it
    :ivar error: with which the operation ended, None where it ended well
    :ivar before: what was on the host, by ``on_host``
    :ivar after: what is on it now
    """

    method: str
    number: int
    trouble: str
    error: Exception | None
    before: dict
    after: dict

    @property
    def failed(self) -> bool:
        """Whether the operation ended with an error."""
        return self.error is not None

    def __str__(self) -> str:
        return f"{self.trouble} at {self.number} {self.method}: {self.error}"


def on_host(rig: fixtures.Rig) -> dict:
    """Return what is on the host, less how the SR arranges its disks' files.

    A clone gives its image a parent file, which goes when the SR coalesces.
    """
    found = rig.sim.inventory()
    found["files"] = [name for name in found["files"] if not _DISK_FILE.match(name)]
    return found


def spawning(rig: fixtures.Rig, image_id: str = "", **how: Any) -> Operation:
    """Return the build of a server, which is deleted again.

    :param how: as of :func:`builders.instance` under ``instance``, and of
        :meth:`fixtures.Rig.spawn`
    """
    about = how.pop("instance", {})

    def build(instance: Any) -> None:
        rig.spawn(instance, active=False, **how)

    # The compute manager destroys after every failed build.
    return Operation(
        lambda: builders.instance(image_id or rig.image_id, **about),
        build,
        rig.destroy,
    )


def destroying(rig: fixtures.Rig, **how: Any) -> Operation:
    """Return the removal of a server, which is repeated where it failed."""
    about = how.pop("instance", {})

    def built() -> Any:
        instance = builders.instance(rig.image_id, **about)
        rig.spawn(instance, **how)
        return instance

    return Operation(built, rig.destroy, rig.destroy)


def calls_of(rig: fixtures.Rig, operation: Operation) -> list[str]:
    """Return the calls and transfers that the operation makes, in their order."""
    subject = operation.ready()
    with rig.recording() as made:
        operation.act(subject)
    operation.settle(subject)
    return list(made)


def break_calls(
    rig: fixtures.Rig,
    operation: Operation,
    name: str,
    trouble: dict[str, Any],
    only: str = "",
) -> Iterator[Break]:
    """Break the operation at each of its calls in turn.

    :param name: of the trouble
    :param only: pattern of the calls to break; others break elsewhere already
    """
    calls_of(rig, operation)  # what is cached is cached from here on
    calls = calls_of(rig, operation)
    before = on_host(rig)
    for number, method in enumerate(calls):
        if method in HARMLESS and "error" in trouble:
            continue
        if only and not re.search(only, method):
            continue
        # What is refused is the work, what is lost is the answer to its beginning.
        hit = method.removeprefix("Async.") if "error" in trouble else method
        earlier = calls[:number].count(method)

        def put_here(hit: str = hit, earlier: int = earlier) -> None:
            rig.sim.faults.add(hit, skip=earlier, **trouble)

        error = _attempt(rig, operation, put_here)
        yield Break(method, number, name, error, before, on_host(rig))


def _attempt(
    rig: fixtures.Rig, operation: Operation, put_trouble_here: Callable[[], None]
) -> Exception | None:
    subject = operation.ready()
    put_trouble_here()
    error: Exception | None = None
    try:
        operation.act(subject)
    except nova_exception.NovaException as exc:
        error = exc
    finally:
        rig.sim.faults.clear()
    operation.settle(subject)
    return error


class Broken(nova_exception.NovaException):
    """A step that a test broke."""

    msg_fmt = WORDS


class _Breaking(flow.Step[Any]):
    """A step that breaks before or after the one that it stands for."""

    def __init__(self, step: flow.Step[Any], late: bool) -> None:
        self.name = step.name
        self._step = step
        self._late = late

    def run(self, state: Any) -> None:
        if self._late:
            self._step.run(state)
        raise Broken()

    def undo(self, state: Any) -> None:
        self._step.undo(state)


def break_steps(rig: fixtures.Rig, operation: Operation) -> Iterator[Break]:
    """Break the operation before and after each of its steps' work.

    The flow itself is wrapped: a step cannot be made to fail from outside else.
    """
    names = _steps_of(operation)
    before = on_host(rig)
    run_flow = flow.run_flow
    for number, step_name in enumerate(names):
        for late in (False, True):

            def broken(steps, state, progress=None, at=number, late=late):
                changed = list(steps)
                changed[at] = _Breaking(changed[at], late)
                run_flow(changed, state, progress)

            with mock.patch.object(flow, "run_flow", broken):
                error = _attempt(rig, operation, lambda: None)
            trouble = "after its work" if late else "before its work"
            yield Break(step_name, number, trouble, error, before, on_host(rig))


def _steps_of(operation: Operation) -> list[str]:
    names: list[str] = []
    run_flow = flow.run_flow

    def noting(steps, state, progress=None):
        names[:] = [step.name for step in steps]
        run_flow(steps, state, progress)

    for _twice in range(2):  # what is cached is cached from the second on
        subject = operation.ready()
        with mock.patch.object(flow, "run_flow", noting):
            operation.act(subject)
        operation.settle(subject)
    return names
