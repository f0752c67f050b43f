# SPDX-License-Identifier: Apache-2.0
"""Ordered steps that know their undo, and the loop that runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

State = TypeVar("State")


class Step(Generic[State]):
    """One named piece of a flow.

    ``undo`` may be called after a ``run`` that stopped anywhere, and must do
    nothing for what ``run`` did not reach.
    """

    name = "step"

    def run(self, state: State) -> None:
        """Do the work and keep in ``state`` what later steps and undo need."""
        raise NotImplementedError

    def undo(self, state: State) -> None:
        """Take back what ``run`` did. The default has nothing to take back."""


def run_flow(
    steps: Sequence[Step[State]],
    state: State,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run ``steps`` in order; on a failure undo the begun ones, last first.

    The failed step is undone too, as it may have got half way. An undo that
    fails is logged and the others go on: the caller sees the first error.

    :param progress: called with (steps done, steps in all) after each step
    """
    begun: list[Step[State]] = []
    took: list[str] = []
    try:
        for step in steps:
            begun.append(step)
            start = time.monotonic()
            step.run(state)
            took.append(f"{step.name} {time.monotonic() - start:.2f} s")
            if progress is not None:
                progress(len(begun), len(steps))
    # Whatever ends a flow, a kill of the green thread included, must be undone.
    except BaseException:
        undo_flow(begun, state)
        raise
    LOG.debug("Flow done: %s.", ", ".join(took))


def undo_flow(begun: Sequence[Step[State]], state: State) -> None:
    """Undo ``begun``, last first; a failure is logged and the rest go on."""
    for step in reversed(begun):
        try:
            step.undo(state)
        except Exception:
            # One undo that fails must not keep the others from running.
            LOG.exception("Undo of step %s failed.", step.name)
