# SPDX-License-Identifier: Apache-2.0
"""Steps run in order, and what was begun is undone, last first."""

from __future__ import annotations

import pytest

from xenapi_driver import flow


class Told(flow.Step[list]):
    """Writes down what it was asked; fails where the test says so."""

    def __init__(self, name, run_fails=None, undo_fails=None):
        self.name = name
        self._run_fails = run_fails
        self._undo_fails = undo_fails

    def run(self, state):
        state.append(f"run {self.name}")
        if self._run_fails is not None:
            raise self._run_fails

    def undo(self, state):
        state.append(f"undo {self.name}")
        if self._undo_fails is not None:
            raise self._undo_fails


def test_steps_run_in_order_and_nothing_is_undone():
    told = []
    flow.run_flow([Told("a"), Told("b"), Told("c")], told)
    assert told == ["run a", "run b", "run c"]


def test_what_was_begun_is_undone_last_first_with_the_failed_step():
    told = []
    steps = [Told("a"), Told("b", run_fails=ValueError("b broke")), Told("c")]
    with pytest.raises(ValueError, match="b broke"):
        flow.run_flow(steps, told)
    assert told == ["run a", "run b", "undo b", "undo a"]


def test_an_undo_that_fails_neither_stops_the_others_nor_hides_the_first_error():
    told = []
    steps = [
        Told("a"),
        Told("b", undo_fails=KeyError("undo broke")),
        Told("c", run_fails=ValueError("c broke"), undo_fails=OSError("too")),
    ]
    with pytest.raises(ValueError, match="c broke"):
        flow.run_flow(steps, told)
    assert told[3:] == ["undo c", "undo b", "undo a"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_killed_thread_undoes_its_flow(end):
    told = []
    with pytest.raises(end):
        flow.run_flow([Told("a"), Told("b", run_fails=end())], told)
    assert told[2:] == ["undo b", "undo a"]


def test_progress_counts_the_steps_that_are_done():
    seen = []
    steps = [Told("a"), Told("b"), Told("c", run_fails=ValueError())]
    with pytest.raises(ValueError):
        flow.run_flow(
            steps, [], progress=lambda done, total: seen.append((done, total))
        )
    assert seen == [(1, 3), (2, 3)]


def test_a_progress_report_that_fails_undoes_the_flow():
    told = []

    def refuse(done, total):
        raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError):
        flow.run_flow([Told("a"), Told("b")], told, progress=refuse)
    assert told == ["run a", "undo a"]


def test_a_step_without_undo_has_nothing_to_take_back():
    class Idle(flow.Step[list]):
        def run(self, state):
            raise ValueError("idle")

    with pytest.raises(ValueError, match="idle"):
        flow.run_flow([Idle()], [])
