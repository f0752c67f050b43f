# SPDX-License-Identifier: Apache-2.0
"""What the scheduler may ask of a host's processors, as placement's traits.

XAPI gives the features that HVM guests can have as words of 32 bits in
hexadecimal, with dashes between them. Which bit means what is in Xen's public
header ``xen/include/public/arch-x86/cpufeatureset.h``; new words come at its end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_PREFIX = "HW_CPU_X86_"

# By trait, the bits of which each gives it: word, bit. Word 0 is CPUID leaf 1 EDX,
# 1 leaf 1 ECX, 2 leaf 0x80000001 EDX, 3 leaf 0x80000001 ECX, 5 leaf 7 EBX,
# 6 leaf 7 ECX, 8 leaf 0x80000008 EBX, 9 leaf 7 EDX.
_BITS: dict[str, tuple[tuple[int, int], ...]] = {
    "MMX": ((0, 23),),
    "SSE": ((0, 25),),
    "SSE2": ((0, 26),),
    "SSE3": ((1, 0),),
    "CLMUL": ((1, 1),),
    # The general trait, and the vendor's that came after it.
    "VMX": ((1, 5),),
    "INTEL_VMX": ((1, 5),),
    "SSSE3": ((1, 9),),
    "FMA3": ((1, 12),),
    "INTEL_PCID": ((1, 17),),
    "SSE41": ((1, 19),),
    "SSE42": ((1, 20),),
    "AESNI": ((1, 25),),
    "AVX": ((1, 28),),
    "F16C": ((1, 29),),
    "PDPE1GB": ((2, 26),),
    "3DNOW": ((2, 31),),
    "SVM": ((3, 2),),
    "AMD_SVM": ((3, 2),),
    "ABM": ((3, 5),),
    "SSE4A": ((3, 6),),
    "XOP": ((3, 11),),
    "FMA4": ((3, 16),),
    "TBM": ((3, 21),),
    "SGX": ((5, 2),),
    "BMI": ((5, 3),),
    "AVX2": ((5, 5),),
    "BMI2": ((5, 8),),
    # Restricted transactional memory: lock elision alone is a hint.
    "TSX": ((5, 11),),
    "MPX": ((5, 14),),
    "AVX512F": ((5, 16),),
    "AVX512DQ": ((5, 17),),
    "AVX512IFMA": ((5, 21),),
    "AVX512PF": ((5, 26),),
    "AVX512ER": ((5, 27),),
    "AVX512CD": ((5, 28),),
    "SHA": ((5, 29),),
    "AVX512BW": ((5, 30),),
    "AVX512VL": ((5, 31),),
    "AVX512VBMI": ((6, 1),),
    "AVX512VBMI2": ((6, 6),),
    "AVX512GFNI": ((6, 8),),
    "AVX512VAES": ((6, 9),),
    "AVX512VPCLMULQDQ": ((6, 10),),
    "AVX512VNNI": ((6, 11),),
    "AVX512BITALG": ((6, 12),),
    "AVX512VPOPCNTDQ": ((6, 14),),
    "AMD_IBPB": ((8, 12),),
    "AMD_SSBD": ((8, 24),),
    "AMD_VIRT_SSBD": ((8, 25),),
    "AMD_NO_SSB": ((8, 26),),
    "INTEL_MD_CLEAR": ((9, 10),),
    # Older headers leave AMX out; bits by Intel's manual, volume 2A, CPUID.
    "AMXBF16": ((9, 22),),
    "AMXTILE": ((9, 24),),
    "AMXINT8": ((9, 25),),
    "INTEL_SPEC_CTRL": ((9, 26),),
    # Each vendor has its own bit for it.
    "STIBP": ((8, 15), (9, 27)),
    "INTEL_SSBD": ((9, 31),),
}

_ARCHITECTURES = {"x86_64": "HW_ARCH_X86_64", "i686": "HW_ARCH_I686"}
_HYPERTHREADING = "HW_CPU_HYPERTHREADING"

# What is ours to take away again; all other traits are somebody else's.
OWNED = frozenset(
    {_PREFIX + name for name in _BITS}
    | {_HYPERTHREADING}
    | set(_ARCHITECTURES.values())
)

_FEATURE_WORDS = re.compile(r"[0-9a-fA-F]{1,8}(-[0-9a-fA-F]{1,8})*")


def traits(
    featuresets: Iterable[str], threads_per_core: int, architectures: Collection[str]
) -> frozenset[str]:
    """Return the traits of a host, a subset of :data:`OWNED`.

    :param featuresets: words of features; a guest has what is in all of them
    :param architectures: of guests that the host runs, as Nova names them
    """
    features = [_features(text) for text in featuresets]
    given = frozenset.intersection(*features) if features else frozenset()
    found = {
        _PREFIX + name for name, bits in _BITS.items() if not given.isdisjoint(bits)
    }
    found.update(
        trait for name, trait in _ARCHITECTURES.items() if name in architectures
    )
    if threads_per_core > 1:
        found.add(_HYPERTHREADING)
    return frozenset(found)


def _features(text: str) -> frozenset[tuple[int, int]]:
    """Return word and bit of each feature; of what are no such words, none."""
    if not _FEATURE_WORDS.fullmatch(text):
        return frozenset()
    return frozenset(
        (number, bit)
        for number, word in enumerate(text.split("-"))
        for bit in range(32)
        if int(word, 16) >> bit & 1
    )
