# SPDX-License-Identifier: Apache-2.0
"""How a class module says what it does: one decorator a purpose.

A module in ``classes/`` is found by being there. It registers handlers of messages,
fields that are worked out when they are read, and checks of setters; dispatch,
registry and schema need no change for a new class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Computed, Registry
from xenapi_driver.sim.world import World


@dataclass(frozen=True)
class Place:
    """Where a call came in.

    :ivar host: reference of the host, "" for the coordinator
    :ivar trusted: by a way that only root on the host can take
    :ivar labels: what the request wants its task's other_config to hold
    """

    host: str = ""
    trusted: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """The call that a handler carries out.

    :ivar session: the caller's session reference, "" before a login
    :ivar task: the task of an Async call, else ""
    :ivar place: where it came in
    """

    world: World
    method: str
    session: str = ""
    task: str = ""
    place: Place = Place()

    @property
    def db(self) -> Registry:
        """Return the database."""
        return self.world.db

    def check_cancelled(self) -> None:
        """Stop here if the caller cancelled the task.

        :raises Failure: TASK_CANCELLED
        """
        if self.task and self.task in self.world.cancelled:
            raise Failure("TASK_CANCELLED", self.task)


@dataclass(frozen=True)
class Handler:
    """A handler and how it wants to be called.

    :ivar blocking: takes the database lock itself where it needs it, because it waits
    :ivar missing: error code for a first reference that names nothing; "": none, the
        handler looks itself
    """

    function: Callable[..., Any]
    blocking: bool = False
    missing: str = "HANDLE_INVALID"


HANDLERS: dict[str, Handler] = {}
COMPUTED: dict[tuple[str, str], Computed] = {}

F = TypeVar("F", bound=Callable[..., Any])


def message(
    *names: str, blocking: bool = False, missing: str = "HANDLE_INVALID"
) -> Callable[[F], F]:
    """Register a function for messages; it gets the call and the arguments.

    A handler of ``<class>.create`` gets the complete record, one of a setter replaces
    the plain assignment.
    """

    def register(function: F) -> F:
        for name in names:
            if name in HANDLERS:
                raise RuntimeError(f"two functions carry out {name}")
            HANDLERS[name] = Handler(function, blocking, missing)
        return function

    return register


def computed(cls: str, name: str) -> Callable[[F], F]:
    """Register a function that works out a field from (db, ref, row)."""

    def register(function: F) -> F:
        COMPUTED[cls, name] = function
        return function

    return register
