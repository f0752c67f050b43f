# SPDX-License-Identifier: Apache-2.0
"""The files in tests/data/dom0, which a host's own disk tool made."""

import functools
import gzip
from pathlib import Path

DATA = Path(__file__).parents[1] / "data/dom0"

# SHA-256 of what a guest reads, through the chain.
CONTENT = {
    "base": "c853256e3905b04cc59efc3e59dce344f6a7cd6b1cd23fc094a41d1cd7f367a6",
    "mid": "da59b952bfda6db2641642286e20a19f6afcbc2e9ed3a338259d984dffb883e1",
    "leaf": "963ebd85636c8bb63f0a63ae2865eb8aafc87df63718563ba65d96b6fdee3f67",
}


@functools.cache
def read(name: str) -> bytes:
    return gzip.decompress((DATA / f"{name}.vhd.gz").read_bytes())
