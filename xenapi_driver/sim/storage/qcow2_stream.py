# SPDX-License-Identifier: Apache-2.0
"""A QCOW2 image written forwards.

Layout (QEMU, docs/interop/qcow2.rst, version 2): header, refcount table, refcount
blocks, L1 table, L2 tables, then the data, all in clusters of 64 KiB.
"""

import struct
from collections.abc import Callable, Iterator

from xenapi_driver.sim.storage.vhd_store import Content

_CLUSTER = 64 * 1024
_ENTRIES = _CLUSTER // 8  # of an L2 table, and of the refcount table
_COUNTS = _CLUSTER // 2  # refcounts in a block of them
_COPIED = 1 << 63  # the one reference to a cluster
_BLOCK = 2 * 1024 * 1024
# magic, version, backing file (offset, size), cluster bits, size, encryption,
# L1 (entries, offset), refcount table (offset, clusters), snapshots (number, offset)
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")


def _clusters(size: int) -> int:
    return -(-size // _CLUSTER)


def _refcount_blocks(others: int) -> tuple[int, int]:
    """Return how many blocks of counts there are, and clusters of their table."""
    blocks = tables = 1
    while True:
        total = others + blocks + tables
        wanted = -(-total // _COUNTS)
        if (wanted, _clusters(wanted * 8)) == (blocks, tables):
            return blocks, tables
        blocks, tables = wanted, _clusters(wanted * 8)


def write(disk: Content, put: Callable[[bytes], None]) -> None:
    """Write a disk; blocks of 2 MiB that it does not hold are left out."""
    size = disk.virtual_size
    data = [cluster for block in disk.blocks for cluster in _of_block(block, size)]
    l2_tables = sorted({cluster // _ENTRIES for cluster in data})
    l1_entries = max(1, -(-_clusters(size) // _ENTRIES))
    l1_clusters = _clusters(l1_entries * 8)
    others = 1 + l1_clusters + len(l2_tables) + len(data)
    blocks, tables = _refcount_blocks(others)
    l1_at = 1 + tables + blocks
    l2_at = l1_at + l1_clusters
    data_at = l2_at + len(l2_tables)
    put(
        _HEADER.pack(
            b"QFI\xfb",
            2,
            0,
            0,
            _CLUSTER.bit_length() - 1,
            size,
            0,
            l1_entries,
            l1_at * _CLUSTER,
            _CLUSTER,
            tables,
            0,
            0,
        ).ljust(_CLUSTER, b"\0")
    )
    table = [(1 + tables + number) * _CLUSTER for number in range(blocks)]
    put(_packed("Q", table, tables))
    total = others + blocks + tables
    put(_packed("H", [1] * total, blocks))
    l1 = [0] * l1_entries
    for number, index in enumerate(l2_tables):
        l1[index] = (l2_at + number) * _CLUSTER | _COPIED
    put(_packed("Q", l1, l1_clusters))
    places = {cluster: data_at + number for number, cluster in enumerate(data)}
    for index in l2_tables:
        span = range(index * _ENTRIES, (index + 1) * _ENTRIES)
        l2 = [places[c] * _CLUSTER | _COPIED if c in places else 0 for c in span]
        put(_packed("Q", l2, 1))
    for cluster in data:
        offset = cluster * _CLUSTER
        part = disk.read(offset, min(_CLUSTER, size - offset))
        put(part.ljust(_CLUSTER, b"\0"))


def _of_block(block: int, size: int) -> Iterator[int]:
    first = block * _BLOCK // _CLUSTER
    yield from range(first, min(first + _BLOCK // _CLUSTER, _clusters(size)))


def _packed(kind: str, numbers: list[int], clusters: int) -> bytes:
    raw = struct.pack(f">{len(numbers)}{kind}", *numbers)
    return raw.ljust(clusters * _CLUSTER, b"\0")
