# SPDX-License-Identifier: Apache-2.0
"""Processor traits from the words of features that XAPI gives."""

from __future__ import annotations

import itertools

import os_traits
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import embedded
from xenapi_driver.ops import cpu_traits
from xenapi_driver.xapi.host import HostRecord

PREFIX = "HW_CPU_X86_"
# What /proc/cpuinfo calls them, where it is not the trait's own name.
FLAGS = {
    "pni": "SSE3",
    "pclmulqdq": "CLMUL",
    "sse4_1": "SSE41",
    "sse4_2": "SSE42",
    "fma": "FMA3",
    "aes": "AESNI",
    "bmi1": "BMI",
}
# No bit of the words says it: it is retired, or of leaves that Xen keeps to itself.
NO_BIT = {"ASF", "AMD_SEV", "AMD_SEV_ES", "AMD_SEV_SNP", "INTEL_TDX"}

words = st.lists(st.integers(0, 2**32 - 1), max_size=24)


def text_of(found: list[int]) -> str:
    return "-".join(f"{word:08x}" for word in found)


def x86(featureset: str) -> set[str]:
    found = cpu_traits.traits([featureset], 1, ())
    return {name.removeprefix(PREFIX) for name in found}


def only(word: int, bit: int) -> str:
    return text_of([0] * word + [1 << bit])


def test_every_trait_exists_in_placement():
    assert cpu_traits.OWNED <= set(os_traits.get_traits())


def test_no_trait_of_x86_that_has_a_bit_is_forgotten():
    ours = {name for name in cpu_traits.OWNED if name.startswith(PREFIX)}
    theirs = set(os_traits.get_traits(PREFIX))
    assert {PREFIX + name for name in NO_BIT} == theirs - ours


def test_traits_agree_with_the_flags_of_the_same_host(session):
    info = embedded.snapshot(session)[HostRecord][session.host_ref].cpu_info
    known = {name.removeprefix(PREFIX) for name in cpu_traits.OWNED}
    flags = {FLAGS.get(flag, flag.upper()) for flag in info["flags"].split()}
    named = flags & known
    assert len(named) > 12
    assert named <= x86(info["features_hvm"])


@pytest.mark.parametrize(
    ("word", "bit", "expected"),
    [
        (0, 26, {"SSE2"}),
        (1, 5, {"VMX", "INTEL_VMX"}),
        (2, 26, {"PDPE1GB"}),
        (3, 2, {"SVM", "AMD_SVM"}),
        (5, 16, {"AVX512F"}),
        (6, 11, {"AVX512VNNI"}),
        (8, 12, {"AMD_IBPB"}),
        (8, 15, {"STIBP"}),
        (9, 27, {"STIBP"}),
        (9, 10, {"INTEL_MD_CLEAR"}),
        (4, 0, set()),
    ],
)
def test_a_bit_is_a_trait(word, bit, expected):
    assert x86(only(word, bit)) == expected


@given(words, words)
def test_more_bits_are_never_fewer_traits(some, more):
    pairs = itertools.zip_longest(some, more, fillvalue=0)
    both = [one | other for one, other in pairs]
    assert x86(text_of(some)) | x86(text_of(more)) <= x86(text_of(both))


@given(st.text(max_size=60))
def test_what_is_no_featureset_gives_no_failure(text):
    assert x86(text) <= {name.removeprefix(PREFIX) for name in cpu_traits.OWNED}


@given(words, words)
def test_a_guest_has_what_all_featuresets_have(some, more):
    found = cpu_traits.traits([text_of(some), text_of(more)], 1, ())
    both = [one & other for one, other in zip(some, more, strict=False)]
    assert found == cpu_traits.traits([text_of(both)], 1, ())


def test_a_host_that_says_nothing_has_nothing():
    assert cpu_traits.traits((), 1, ()) == frozenset()


def test_threads_and_architectures():
    found = cpu_traits.traits((), 2, {"x86_64", "i686", "mips"})
    assert found == {"HW_CPU_HYPERTHREADING", "HW_ARCH_X86_64", "HW_ARCH_I686"}
