# SPDX-License-Identifier: Apache-2.0
"""Rules that make the simulated host misbehave."""

import threading
import time
from dataclasses import dataclass

from xenapi_driver.sim.failure import Failure


@dataclass
class Rule:
    """One rule; ``times`` and ``skip`` count down while it is used."""

    method: str
    error: list[str] | None
    times: int
    skip: int
    delay: float
    after: bool


class Faults:
    """The rules of one host, asked in the order in which they were added."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        error: list[str] | None = None,
        *,
        times: int = 1,
        skip: int = 0,
        delay: float = 0.0,
        after: bool = False,
    ) -> None:
        """Let calls of ``method`` fail, or be slow.

        :param method: wire name without Async; with it, starting the task fails
        :param error: code and parameters; None only delays
        :param times: how many calls are hit, -1 for all
        :param skip: how many calls pass before
        :param delay: seconds to wait before the call
        :param after: carry the call out, then answer the error
        """
        with self._lock:
            self._rules.append(Rule(method, error, times, skip, delay, after))

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def _take(self, method: str) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.method != method or rule.times == 0:
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    return None
                rule.times -= 1 if rule.times > 0 else 0
                return rule
        return None

    def before(self, method: str) -> Failure | None:
        """Wait and fail as a rule says; return what is to be answered afterwards.

        :raises Failure: the rule's error, when it comes instead of the call
        """
        rule = self._take(method)
        if rule is None:
            return None
        if rule.delay:
            time.sleep(rule.delay)
        if rule.error is None:
            return None
        failure = Failure(*rule.error)
        if rule.after:
            return failure
        raise failure
