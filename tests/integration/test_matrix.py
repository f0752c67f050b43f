# SPDX-License-Identifier: Apache-2.0
"""Every kind of image, by every handler, on every type of SR that fits.

All services run once, with a nova-compute and an XAPI host for each pair of handler
and SR. Rows run beside each other; each test waits for its own.
"""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from demo.cloud import Cloud
from demo.failure import DemoFailure
from demo.node import Node
from tests.integration import guest_image, leftovers
from tests.integration.real_guest import RealGuest
from tests.integration.rows import Matrix, Outcome, Row

HANDLERS = {"direct": "direct_vhd", "remote": "vdi_remote_stream",
            "local": "vdi_local_dev"}  # fmt: skip
PLACES = (
    *("direct-ext", "direct-nfs"),
    *("local-ext", "local-nfs", "local-lvm"),
    *("remote-ext", "remote-nfs", "remote-lvm"),
)


def node(number: int, name: str) -> Node:
    handler, _, sr = name.partition("-")
    options = {
        "xenserver": {"image_handler": HANDLERS[handler]},
        "DEFAULT": {"default_ephemeral_format": "ext4"},
    }
    return Node(name, number, sr, True, options)


NODES = tuple(node(number, name) for number, name in enumerate(PLACES, 1))
VHDS = ("vhd", "dotted", "chain", "old-names")
OTHERS = ("raw", "tgz", "qcow2", "iso", "ami")
KINDS = {"direct": VHDS + OTHERS, "local": OTHERS, "remote": VHDS + OTHERS}


def row(place: str, kind: str, number: int) -> Row:
    """Every other server is stopped, and its disk changed, before the snapshot.

    Every third has a flavor whose disk the image's must grow to; one alone where a
    snapshot reads the whole disk. Beside a CD there is a blank disk of the flavor's,
    and nothing to make an image of. Whatever its members were called, a VHD image
    becomes the same disk: one snapshot of each handler will do.
    """
    if kind == "iso":
        return Row(place, kind, snapshot=False, disk=1)
    if kind in ("dotted", "old-names") and not place.endswith("-ext"):
        return Row(place, kind, snapshot=False)
    grown = number % 3 == 0
    if place.startswith("local"):
        grown = (place, kind) == ("local-ext", "tgz")
    return Row(place, kind, stopped=bool(number % 2), disk=int(grown))


ROWS = [
    row(place, kind, x + y)
    for x, place in enumerate(PLACES)
    for y, kind in enumerate(KINDS[place.partition("-")[0]])
]


@pytest.fixture(scope="module")
def matrix(layout, tmp_path_factory):
    cloud = Cloud(layout, "auto", NODES)
    try:
        cloud.up(print)
        made = Matrix(cloud, tmp_path_factory.mktemp("disks"))
        yield made
        made.close()
    finally:
        cloud.down()


@pytest.fixture(scope="module")
def results(request, matrix, outcomes):
    """Start all rows that were asked for."""
    rows = [
        item.callspec.params["row"]
        for item in request.session.items
        if getattr(item, "originalname", "") == test_row.__name__
    ]
    started: dict[Row, Future[Outcome]] = {row: matrix.start(row) for row in rows}
    yield started
    outcomes.extend(
        future.result()
        for future in started.values()
        if future.done() and not future.exception()
    )


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(results, row):
    results[row].result()


def test_a_vhd_by_a_handler_of_raw_disks(matrix):
    """Refused in words, before anything is fetched."""
    with pytest.raises(DemoFailure, match="is a VHD, which image"):
        matrix.run(Row("local-ext", "vhd"))


def test_real_guest(matrix):
    """A Linux boots from its server's disks and sees what it was given."""
    absent = guest_image.missing()
    if absent:
        pytest.skip(f"missing: {', '.join(absent)}")
    RealGuest(matrix, "direct-ext").run()


@pytest.mark.parametrize("place", PLACES)
def test_host_is_clean(matrix, results, place):
    for row, future in results.items():
        if row.node == place:
            future.exception()
    leftovers.check(matrix, place)
