# SPDX-License-Identifier: Apache-2.0
"""Tables of records: whatever changes, indexes and records agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenapi_driver.xapi.tables import Snapshot, Table
from xenapi_driver.xapi.vbd import VbdRecord
from xenapi_driver.xapi.vdi import VdiRecord

REFS = [f"OpaqueRef:{number}" for number in range(6)]
NAMES = ["root", "swap", ""]
SRS = ["OpaqueRef:sr1", "OpaqueRef:sr2"]


def disk(ref: str, name: str, sr: str) -> VdiRecord:
    return VdiRecord(
        ref, f"uuid of {ref}", name, 1, 1, sr, (), {}, {}, True, {}, False, None
    )  # fmt: skip


changes = st.dictionaries(
    st.sampled_from(REFS),
    st.none() | st.tuples(st.sampled_from(NAMES), st.sampled_from(SRS)),
)


@given(st.lists(changes))
def test_indexes_say_what_the_records_say(batches):
    table: Table[VdiRecord] = Table()
    expected: dict[str, VdiRecord] = {}
    for batch in batches:
        before, was = table, dict(expected)
        made = {ref: what and disk(ref, *what) for ref, what in batch.items()}
        table = table.changed(made)
        for ref, record in made.items():
            if record is None:
                expected.pop(ref, None)
            else:
                expected[ref] = record
        assert dict(table) == expected
        assert dict(before) == was, "a table never changes"
        for name in NAMES:
            named = {ref for ref, one in expected.items() if one.name_label == name}
            assert {one.ref for one in table.named(name)} == named
        for sr in SRS:
            owned = {ref for ref, one in expected.items() if one.sr == sr}
            assert {one.ref for one in table.owned_by(sr)} == owned
        for ref in REFS:
            assert table.by_uuid(f"uuid of {ref}") == expected.get(ref)


def test_a_snapshot_keeps_what_did_not_change():
    snapshot = Snapshot([VdiRecord, VbdRecord])
    later = snapshot.changed({VdiRecord: {REFS[0]: disk(REFS[0], "root", SRS[0])}})
    assert len(snapshot[VdiRecord]) == 0
    assert len(later[VdiRecord]) == 1
    assert later[VbdRecord] is snapshot[VbdRecord]
    assert later.kinds == (VdiRecord, VbdRecord)
