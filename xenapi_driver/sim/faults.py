# SPDX-License-Identifier: Apache-2.0
"""Rules that make the simulated host misbehave.

A rule hits calls of one method, from the n-th on, some times. It makes them slow, lets
them fail, or does one of ``ACTIONS``::

    faults.add("VM.start", ["TOO_BUSY"])                    # the next call
    faults.add("VM.start", ["TOO_BUSY"], skip=2, times=5)   # the third to seventh
    faults.add("*", skip=99, action="cut")                  # the hundredth call
    faults.add("VBD.unplug", ["DEVICE_DETACH_REJECTED", "VBD", "{0}", "busy"])
    faults.add("VDI.create", ["SR_BACKEND_FAILURE_44", "", "No space", ""])
    faults.add("VM.clone", delay=2.0, after=True, action="die")
    faults.add("PUT /import_raw_vdi", action="cut", bytes=2**20)

The last one hits a request to an HTTP handler, when a megabyte is through in either
direction; ``*`` stands for API calls alone. ``{0}``, ``{1}``, ... in an error stand for
the call's arguments, the session not counted. A rule for ``VM.start`` hits the work, be
it called directly or by a task, which then fails; one for ``Async.VM.start`` hits the
call that begins the task.

cut
    end the connection instead of answering
expire
    end the caller's session; the call is refused with SESSION_INVALID
hang
    go no further until the task is cancelled or the rules are cleared
lose
    carry the call out, but make no event of what it changed
restart
    restart the coordinator's toolstack: connections end, sessions and tasks are
    forgotten
die
    the coordinator is off from here on
lead
    another host of the pool becomes its coordinator, connections end

Each comes before the call's effect, or after it with ``after``.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from xenapi_driver.sim.failure import ConnectionCut, Failure

ACTIONS = ("", "cut", "expire", "hang", "lose", "restart", "die", "lead")
_TO_THE_HOST = ("restart", "die", "lead")
Late = Callable[[], None]


class Hit(Protocol):
    """What a rule has to know of the call that it hits."""

    @property
    def session(self) -> str:
        """The caller's session."""

    @property
    def world(self) -> Any:
        """The pool."""

    @property
    def db(self) -> Any:
        """The pool's database."""

    def check_cancelled(self) -> None:
        """Stop if the call's task was cancelled."""


@dataclass
class Rule:
    """One rule; ``times`` and ``skip`` count down while it is used.

    :ivar method: wire name without Async; with it, starting the task is hit; ``*``
        stands for all
    :ivar error: code and parameters of the refusal; None: no refusal
    :ivar times: how many calls are hit, -1 for all
    :ivar skip: how many calls pass before
    :ivar delay: seconds to wait before the call
    :ivar after: carry the call out first
    :ivar bytes: of a transfer that pass before; -1: the rule hits at its beginning
    :ivar action: one of ``ACTIONS``
    """

    method: str
    error: list[str] | None = None
    times: int = 1
    skip: int = 0
    delay: float = 0.0
    after: bool = False
    action: str = ""
    bytes: int = -1

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action is one of {', '.join(filter(None, ACTIONS))}")
        if isinstance(self.error, str):
            self.error = [self.error]

    def refusal(self, arguments: Sequence[Any]) -> Failure:
        """Return the error, with what the call named filled in."""
        named = {f"{{{index}}}": str(value) for index, value in enumerate(arguments)}
        return Failure(*(named.get(part, part) for part in self.error or ()))


def fields_from(texts: dict[str, Any]) -> dict[str, Any]:
    """Return a rule's fields of which some may be texts, as in a query.

    :raises ValueError: a text is no number where one is wanted
    """
    numbers: dict[str, Callable[[Any], Any]] = {
        "times": int,
        "skip": int,
        "delay": float,
        "bytes": int,
        "after": lambda value: value in (True, "true", "1"),
    }
    return {name: numbers.get(name, _same)(value) for name, value in texts.items()}


def _same(value: Any) -> Any:
    return value


class Faults:
    """The rules of a simulation, asked in the order in which they were added.

    :param do: carries out what happens to the host of a call
    """

    def __init__(self, do: Callable[[str, Any], None] | None = None) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._do = do

    def add(self, method: str, error: list[str] | None = None, **how: Any) -> None:
        """Add a rule; ``how`` are fields of :class:`Rule`.

        :raises TypeError: no such field
        :raises ValueError: no such action
        """
        rule = Rule(method, error, **how)
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules, and let go what hangs."""
        with self._lock:
            self._rules.clear()
            self._released.set()
            self._released = threading.Event()

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules that are left."""
        with self._lock:
            return [
                {about.name: getattr(rule, about.name) for about in fields(rule)}
                for rule in self._rules
                if rule.times
            ]

    def _take(self, names: tuple[str, ...]) -> Rule | None:
        """Return the rule that hits this call; all others that want it count it."""
        hit = None
        with self._lock:
            for rule in self._rules:
                if rule.method not in names or rule.times == 0:
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                elif hit is None:
                    rule.times -= 1 if rule.times > 0 else 0
                    hit = rule
        return hit

    def before(
        self, method: str, call: Hit, arguments: Sequence[Any] = ()
    ) -> Late | None:
        """Do what a rule says; return what is left to do after the call.

        :raises Failure: the rule's error, when it comes instead of the call
        :raises ConnectionCut: no answer shall be sent
        """
        if not self._rules:
            return None
        rule = self._take((method, "*"))
        return None if rule is None else self._begin(rule, call, arguments)

    def during(self, method: str, call: Hit) -> tuple[Late | None, int]:
        """Do what a rule says before a request to a handler, as :meth:`before` does.

        :returns: what is left to do, and after how many bytes; -1: at the end
        """
        rule = self._take((method,)) if self._rules else None
        if rule is None:
            return None, -1
        if rule.bytes < 0:
            return self._begin(rule, call, ()), -1
        time.sleep(rule.delay)
        return lambda: self._act(rule, call, ()), rule.bytes

    def _begin(self, rule: Rule, call: Hit, arguments: Sequence[Any]) -> Late | None:
        if rule.delay:
            time.sleep(rule.delay)
        if rule.action == "lose":
            before = call.db.generation
            return lambda: call.db.forget_changes(before)
        if rule.after:
            return lambda: self._act(rule, call, arguments)
        self._act(rule, call, arguments)
        return None

    def _act(self, rule: Rule, call: Hit, arguments: Sequence[Any]) -> None:
        """Carry out a rule's action, then refuse if it says so."""
        if rule.action == "hang":
            self._hang(call)
        if rule.action == "expire":
            if call.db.exists("session", call.session):
                call.db.destroy("session", call.session)
            raise Failure("SESSION_INVALID", call.session)
        if rule.action in _TO_THE_HOST and self._do is not None:
            self._do(rule.action, call.world)
        if rule.action == "cut" or rule.action in _TO_THE_HOST:
            raise ConnectionCut(f"a rule for {rule.method} cut the connection")
        if rule.error is not None:
            raise rule.refusal(arguments)

    def _hang(self, call: Hit) -> None:
        with self._lock:
            released = self._released
        while not released.wait(0.05):
            call.check_cancelled()
            if call.world.closing.is_set():
                return
