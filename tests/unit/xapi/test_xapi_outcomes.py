# SPDX-License-Identifier: Apache-2.0
"""Whose work it was that a look at the records finds done."""

import pytest

from tests.sim.clients import vdi_record, wait_until
from xenapi_driver.xapi import effects
from xenapi_driver.xapi.vdi import VdiRecord

MIB = 2**20


@pytest.fixture
def disk(sim, operator):
    sr = operator.call("SR.get_by_uuid", sim.default_sr_uuid)
    return operator.call("VDI.create", vdi_record(sr, virtual_size=str(2 * MIB)))


def test_an_original_is_not_taken_for_its_copy(session, disk):
    before = session.records.changed({VdiRecord: {disk: None}})
    wait_until(lambda: disk in session.records[VdiRecord])
    after = session.records
    sr = after[VdiRecord][disk].sr
    for verb, args in (("clone", (disk, {})), ("copy", (disk, sr))):
        assert effects.outcome(f"VDI.{verb}", args, before, after) is effects.NOT_DONE


def test_what_another_call_has_made_is_not_taken_for_ones_own(session, operator, disk):
    before = session.records
    sr = operator.call("VDI.get_SR", disk)
    record = vdi_record(sr, virtual_size=str(2 * MIB), name_label="twin")
    first = session.call("VDI.create", record)
    args, after = (record,), session.records
    assert effects.outcome("VDI.create", args, before, after) == first
    taken = session.made.refs()
    outcome = effects.outcome("VDI.create", args, before, after, taken)
    assert outcome is effects.NOT_DONE


def test_a_copy_is_not_guessed_where_others_have_its_name(session, operator, disk):
    sr = operator.call("VDI.get_SR", disk)
    operator.call("VDI.create", vdi_record(sr, virtual_size=str(2 * MIB)))
    wait_until(lambda: len(session.records[VdiRecord].named("disk")) == 2)
    before = session.records
    session.call("VDI.clone", disk, {})
    outcome = effects.outcome("VDI.clone", (disk, {}), before, session.records)
    assert outcome is effects.UNKNOWN
