# SPDX-License-Identifier: Apache-2.0
"""Our XML writer against the reader of the standard library."""

import json
import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenapi_driver.sim.doors import wire

# What XML cannot carry at all is left out of texts by the host: see the last test.
TEXT = st.text(
    st.characters(
        exclude_categories=["Cs"],
        exclude_characters="".join(map(chr, (*range(9), 11, 12, *range(14, 32))))
        + "\ufffe\uffff",
    )
)
KEYS = st.text("abcdefghijklmnopqrstuvwxyz_-<&>\"' ", min_size=1)
LEAVES = (
    TEXT
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.builds(wire.Timestamp, st.just("20260821T02:00:23Z"))
    | st.builds(wire.WireInt, st.integers(-(2**31), 2**31 - 1))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=30,
)


def on_the_wire(value):
    """Return what a client of xmlrpc.client makes of a host's value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, wire.WireInt):
        return int(value)
    if isinstance(value, wire.Timestamp):
        return xmlrpc.client.DateTime(str(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return float(f"{value:.16g}")
    if isinstance(value, list):
        return [on_the_wire(item) for item in value]
    if isinstance(value, dict):
        return {key: on_the_wire(item) for key, item in value.items()}
    return value


def read(value):
    (answer,), _ = xmlrpc.client.loads(wire.encode_xml(value))
    return answer


@given(VALUES)
def test_what_is_written_is_read(value):
    assert read(value) == on_the_wire(value)


@given(VALUES)
def test_what_the_library_writes_is_read_alike(value):
    # Ours must mean the same as the library's writer, strings and numbers apart.
    theirs = xmlrpc.client.dumps((on_the_wire(value),), methodresponse=True)
    # Its writer leaves a return as it is, which every reader takes for a line's end.
    theirs = theirs.replace("\r", "&#13;")
    assert xmlrpc.client.loads(theirs)[0] == (read(value),)


@given(st.recursive(TEXT | st.booleans(), lambda i: st.lists(i), max_leaves=9))
def test_json_says_the_same(value):
    answer = json.loads(wire.encode_json(value, None, 1, True))
    assert {"jsonrpc": "2.0", "result": value, "id": 1} == answer


def test_kinds_of_containers_and_nothing():
    class Kind(dict):
        pass

    assert {"a": ["1", ""]} == read(Kind(a=("1", None)))


def test_control_characters_are_left_out():
    assert "a\tb" == read("a\x00\x1f\tb\x0b")
    assert "\r\n" == read("\r\n")


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00x", "a\\ud83d"])
def test_half_a_character_is_no_text(text):
    body = f'{{"jsonrpc":"2.0","method":"system.isAlive:","params":["{text}"],"id":1}}'
    with pytest.raises(wire.Malformed):
        wire.decode_json(body.encode())


def test_a_whole_pair_is_one_character():
    body = rb'{"method":"system.isAlive:","params":["\ud83d\ude00"],"id":1}'
    assert wire.decode_json(body)[1] == ["\U0001f600"]
