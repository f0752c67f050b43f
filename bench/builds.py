# SPDX-License-Identifier: Apache-2.0
"""Many builds of one image at once, and a snapshot against its copy alone.

An embedded host in a process of its own answers each call three milliseconds late. For
each number of builds a new image is taken, which one of them has to fetch. The snapshot
is of a server whose disk holds noise; beside it, in turn, the same chain is uploaded
without anything around it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import statistics
import tempfile
import time
import types
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from nova import objects

from bench.driver import big_host, quiet
from bench.hosts import Client, Host
from tests import builders, fixtures
from xenapi_driver.images import direct_vhd, rules, source
from xenapi_driver.xapi import chains, vbd, vdi, vm

SIZES = (1, 10, 50)  # builds at once
LATENCY_MS = 3
SNAPSHOT_MIB = 128
_TIMES = 3

SECONDS = "seconds"
REQUESTS = "requests"
DOWNLOADS = "downloads"
SNAPSHOT = "snapshot, seconds"
COPY = "copy alone, seconds"

# By what was measured: by number of builds (1 for the snapshot).
Found = dict[str, dict[int, float]]


class _FarHost:
    """What a rig uses of a host, of one in another process."""

    def __init__(self, host: Host) -> None:
        self.server = types.SimpleNamespace(url=host.urls[0])
        client = Client(host.urls[0])
        records = client.call("VM.get_all_records").values()
        (own,) = (one for one in records if one["name_label"] == "nova-compute")
        client.close()
        self.sim = types.SimpleNamespace(compute_vm_uuid=own["uuid"])

    def slow(self, milliseconds: int) -> None:
        """Have the host answer each call so much later."""
        rule = {"method": "*", "delay": milliseconds / 1000, "times": -1}
        with urllib.request.urlopen(
            f"{self.server.url}/_sim/rules?{urlencode(rule)}"
        ) as answer:
            answer.read()

    def close(self) -> None:
        """Nothing of ours runs in it."""


@contextlib.contextmanager
def _rig() -> Iterator[fixtures.Rig]:
    fixtures.prepare_nova()
    place = tempfile.TemporaryDirectory()
    with quiet(), place as folder, big_host("--compute-vm") as host:
        far = _FarHost(host)
        rig = fixtures.Rig(pathlib.Path(folder), far)
        try:
            rig.start()
            far.slow(LATENCY_MS)
            yield rig
        finally:
            rig.close()


def _image(rig: fixtures.Rig, mib: int = 16) -> str:
    """Offer an image whose disk holds noise."""
    disk = rig.folder / f"noise-{uuid.uuid4()}"
    disk.mkdir()
    raw, vhd = disk / "raw", disk / "vhd"
    raw.write_bytes(os.urandom(mib * builders.MIB))
    builders.convert_to_vhd(raw, vhd)
    return rig.add_image(builders.vhd_tarball(vhd.read_bytes()))


def _builds(rig: fixtures.Rig, count: int) -> dict[str, float]:
    """Build so many servers of a new image at once."""
    image = _image(rig)
    servers = [builders.instance(image) for _ in range(count)]
    served = rig.images.served
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        with rig.recording() as made:
            began = time.perf_counter()
            for future in [pool.submit(rig.spawn, one) for one in servers]:
                future.result()
            seconds = time.perf_counter() - began
        for future in [pool.submit(rig.destroy, one) for one in servers]:
            future.result()
    return {
        SECONDS: seconds,
        REQUESTS: len(made),
        DOWNLOADS: rig.images.served - served,
    }


def _root(rig: fixtures.Rig, server: objects.Instance) -> vdi.VdiRecord:
    session = rig.driver.home.session
    record = vm.find_server(session, server.name, server.uuid)
    assert record is not None
    (drive,) = vbd.of_vm(session, record.ref)
    return vdi.get(session, drive.vdi or "")


def _copied(rig: fixtures.Rig, server: objects.Instance) -> float:
    """Return the seconds of the upload alone, of a snapshot that is there."""
    home = rig.driver.home
    session = home.session
    copy = vdi.snapshot(session, _root(rig, server).ref)
    try:
        chain = [one.uuid for one in chains.of(session.records, copy)]
        image = rig.images.image(identity=str(uuid.uuid4()))
        target = source.open_target(rig.context, image.identity, {})
        began = time.perf_counter()
        direct_vhd.store(home, target, chain, rules.TransferRules())
        return time.perf_counter() - began
    finally:
        vdi.destroy(session, copy)


def _snapshot(rig: fixtures.Rig, server: objects.Instance) -> float:
    image = rig.images.image(identity=str(uuid.uuid4()))

    def tell(task_state: str, expected_state: str | None = None) -> None:
        """Take what the compute manager is told."""

    began = time.perf_counter()
    rig.driver.snapshot(rig.context, server, image.identity, tell)
    return time.perf_counter() - began


def _snapshots(rig: fixtures.Rig) -> Found:
    server = builders.instance(_image(rig, SNAPSHOT_MIB), root_gb=0)
    server.auto_disk_config = False
    rig.spawn(server)
    ours, theirs = [], []
    for _time in range(_TIMES):
        ours.append(_snapshot(rig, server))
        theirs.append(_copied(rig, server))
    return {
        SNAPSHOT: {1: statistics.median(ours)},
        COPY: {1: statistics.median(theirs)},
    }


def measure(sizes: tuple[int, ...]) -> Found:
    """Return what builds at once and a snapshot cost."""
    found: Found = {}
    with _rig() as rig:
        _builds(rig, 1)  # whatever is slow the first time
        for count in sizes:
            for what, value in _builds(rig, count).items():
                found.setdefault(what, {})[count] = value
        found.update(_snapshots(rig))
    return found


def ratios(found: Found) -> dict[str, float]:
    """Return what goes into the figures: a build among many against one alone."""
    one = found[SECONDS][min(found[SECONDS])]
    kept = {
        f"ratio.build_of_{count}_at_once": round(seconds / count / one, 3)
        for count, seconds in found[SECONDS].items()
        if count > 1
    }
    kept["ratio.snapshot_to_copy"] = round(found[SNAPSHOT][1] / found[COPY][1], 3)
    return kept


def as_rows(found: Found) -> list[tuple[str, dict[int, Any]]]:
    """Return the measured, with requests and seconds of one build beside."""
    each = {
        f"{what} of one": {n: value / n for n, value in found[what].items()}
        for what in (SECONDS, REQUESTS)
    }
    return list({**found, **each}.items())
