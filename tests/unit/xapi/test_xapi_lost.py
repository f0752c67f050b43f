# SPDX-License-Identifier: Apache-2.0
"""Calls whose answers were lost while the host is still at them."""

import threading
import time

import pytest

from tests.sim.clients import vm_record, wait_until
from xenapi_driver.xapi import errors, lost
from xenapi_driver.xapi.task import CALL_LABEL

LABEL = "run-1"


@pytest.fixture
def halted(operator):
    return operator.call("VM.create", vm_record())


@pytest.fixture
def sent(session, halted):
    """A clone that was sent; the host has made a task of it, as xapi does."""
    session.labels_are_kept = True
    return lost.Sent("VM.clone", (halted, "twin"), LABEL, session.records)


@pytest.fixture
def task(operator, sent):
    ref = operator.call("task.create", "VM.clone", "")
    operator.call("task.add_to_other_config", ref, CALL_LABEL, LABEL)
    return ref


def found_out(session, sent, seconds=20.0):
    """Begin to look; return the thread, and where its finding will be."""
    found = []

    def look():
        try:
            found.append(lost.find_out(session, sent, time.monotonic() + seconds))
        except errors.XapiError as exc:
            found.append(exc)

    thread = threading.Thread(target=look)
    thread.start()
    return thread, found


@pytest.mark.parametrize("done", [True, False])
def test_work_under_way_is_waited_for(session, operator, halted, sent, task, done):
    thread, found = found_out(session, sent)
    wait_until(lambda: task in session.events._watches)
    assert found == []
    twin = operator.call("VM.clone", halted, "twin") if done else None
    operator.call("task.set_status", task, "success")
    thread.join(10)
    assert found == [lost.Done(twin) if done else None]


def test_work_that_lasts_too_long_is_unknown(session, sent, task):
    thread, found = found_out(session, sent, seconds=0.5)
    thread.join(10)
    assert [type(one) for one in found] == [errors.OutcomeUnknown]


def test_begun_task_is_adopted(session, sent, task):
    begun = lost.Sent("Async.VM.clone", sent.args, LABEL, sent.before)
    assert lost.find_out(session, begun, time.monotonic() + 5) == lost.Done(task)


def test_without_labels_nobody_knows(session, sent):
    session.labels_are_kept = False
    with pytest.raises(errors.OutcomeUnknown, match="VM.clone"):
        lost.find_out(session, sent, time.monotonic() + 5)
