# SPDX-License-Identifier: Apache-2.0
"""Transfers that can be sent anew, and so need no task of ours."""

import random

import pytest

from tests.sim.clients import behave
from tests.unit.xapi import embedded
from xenapi_driver.sim.doors import exchange
from xenapi_driver.xapi import errors, streams

MIB = 1 << 20
SIZE = 4 * MIB
CONTENT = random.Random(6).randbytes(3 * MIB) + bytes(MIB)
PUT = "PUT /import_raw_vdi"


@pytest.fixture
def place(tmp_path):
    with embedded.host(tmp_path) as (sim, session):
        yield sim, session


@pytest.fixture
def sim(place):
    return place[0]


@pytest.fixture
def session(place):
    return place[1]


@pytest.fixture
def disk(session):
    return embedded.make_disk(session, SIZE)


class Source:
    """Gives the content as often as it is asked, and counts that."""

    def __init__(self, data=CONTENT):
        self.data = data
        self.times = 0

    def __call__(self):
        self.times += 1
        for at in range(0, len(self.data), 100_000):
            yield self.data[at : at + 100_000]


def put(session, disk, source, **kwargs):
    content = streams.Content(source, SIZE)
    with session.requests.recording() as made:
        done = streams.import_disk(session, disk, content, **kwargs)
    return done, list(made)


def content_of(session, disk):
    with streams.export_disk(session, disk) as export:
        return b"".join(export)


def test_it_is_one_request(session, disk):
    source = Source()
    done, made = put(session, disk, source, digests=("md5",))
    assert made == [PUT]
    assert (done.value, done.size, source.times) == (disk, SIZE, 1)
    assert content_of(session, disk) == CONTENT


def test_a_task_that_vanishes_makes_it_go_again(sim, session, disk):
    behave(sim, keeps_own_tasks=False)
    source = Source()
    done, made = put(session, disk, source)
    assert source.times == 2
    assert made.count(PUT) == 2
    assert done.value == disk
    assert content_of(session, disk) == CONTENT
    # From now on this host is known: nothing is sent twice.
    again = Source(CONTENT[::-1])
    _, made = put(session, disk, again)
    assert (again.times, made) == (1, ["task.create", PUT, "task.destroy"])
    assert content_of(session, disk) == CONTENT[::-1]
    assert session.call("task.get_all") == []


def test_a_failure_is_not_sent_again(session):
    source = Source()
    small = embedded.make_disk(session, MIB)
    with pytest.raises(errors.XapiFailure) as caught:
        put(session, small, source)
    assert caught.value.code == "VDI_IO_ERROR"
    assert source.times == 1


def test_a_cut_connection_is_a_failure(sim, session, disk):
    sim.faults.add(PUT, action="cut", bytes=MIB)
    source = Source()
    with pytest.raises(errors.XapiError):
        put(session, disk, source)
    assert source.times == 1
    assert embedded.soon(lambda: not sim.world.held_disks)
    # The disk is as usable as before.
    put(session, disk, source)
    assert content_of(session, disk) == CONTENT


def test_a_source_that_fails_ends_the_transfer(sim, session, disk):
    def source():
        yield CONTENT[:MIB]
        raise OSError("the source is broken")

    with pytest.raises(OSError, match="source is broken"):
        put(session, disk, source)
    assert embedded.soon(lambda: not sim.world.held_disks)
    pending = session.call("task.get_all_records").values()
    assert [one["status"] for one in pending if one["status"] == "pending"] == []


def test_a_host_that_names_no_task_gets_ours(session, disk, monkeypatch):
    begin = exchange.Exchange.begin

    def silent(talk, status=200, headers=None):
        task, talk._task = talk._task, ""
        begin(talk, status, headers)
        talk._task = task

    monkeypatch.setattr(exchange.Exchange, "begin", silent)
    source = Source()
    done, _ = put(session, disk, source)
    assert done.value == disk
    assert content_of(session, disk) == CONTENT
