# SPDX-License-Identifier: Apache-2.0
"""One row of the matrix: an image of a kind, on a node, through the public APIs.

Upload, boot, compare the disk with the image, snapshot, boot the snapshot, compare
again, delete all. Rows run beside each other, as users of a cloud do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import openstack

from demo import seeding
from demo.cloud import Cloud
from demo.failure import DemoFailure, expect
from demo.host import Host
from demo.image import READER, run
from tests.integration import made_images
from tests.integration.made_images import MIB, SYSTEM_PYTHON, Image

GIB = 1 << 30
# Rows at once; the machine has two processors, and services wait for each other.
WORKERS = 4
# How often the APIs are asked: each question costs a service some milliseconds.
POLL_SECONDS = 0.5
PATIENCE = 120


@dataclass(frozen=True)
class Row:
    """What is tried: an image of a kind on a node.

    :ivar stopped: the server is stopped, and its disk's content another one, before
        the snapshot; else it runs
    :ivar snapshot: whether a snapshot is made and booted
    :ivar disk: of the flavor, GiB; 0: the image's own size
    """

    node: str
    kind: str
    stopped: bool = False
    snapshot: bool = True
    disk: int = 0

    def __str__(self) -> str:
        return f"{self.node}-{self.kind}"


@dataclass
class Outcome:
    """What a row took.

    :ivar seconds: by phase
    """

    row: Row
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except DemoFailure as exc:
            exc.step = name
            raise
        finally:
            self.seconds[name] = time.monotonic() - began


class Api:
    """The public APIs, for one thread, with what rows do by them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.sdk: openstack.connection.Connection = seeding.connect(cloud.layout)

    def until(self, seen: Callable[[], bool], what: str, log: Path) -> None:
        """Ask again and again.

        :raises DemoFailure: it was not so in time
        """
        deadline = time.monotonic() + PATIENCE
        while not seen():
            if time.monotonic() > deadline:
                raise DemoFailure(what, f"not within {PATIENCE} s", log)
            time.sleep(POLL_SECONDS)

    def upload(self, name: str, image: Image) -> tuple[str, set[str]]:
        """Give an image and its parts to Glance; its id, and theirs."""
        properties = {"vm_mode": "hvm", "os_type": "linux", **image.properties}
        parts = {}
        for key, part in image.parts.items():
            parts[key] = self._create_image(
                f"{name}-{key}", part.path, part.disk_format, part.disk_format, {}
            )
        made = self._create_image(
            name,
            image.path,
            image.disk_format,
            image.container_format,
            {**properties, **parts},
        )
        return made, set(parts.values())

    def _create_image(
        self, name: str, path: Path, disk: str, container: str, properties: Any
    ) -> str:
        made = self.sdk.image.create_image(
            name=name,
            filename=str(path),
            disk_format=disk,
            container_format=container,
            properties=properties,
            wait=True,
        )
        return str(made.id)

    def create(self, name: str, node: str, **choices: Any) -> str:
        """Ask for a server on a node; its id. ``wait_server`` waits for it."""
        fields: dict[str, Any] = {"networks": "none", **choices}
        # A zone that names a host: the scheduler does not choose.
        zone = f"nova:{node}"
        made = self.sdk.compute.create_server(
            name=name, availability_zone=zone, **fields
        )
        return str(made.id)

    def wait_server(self, server: str, wanted: str, log: Path) -> Any:
        """Wait for a server's status and for the end of what Nova does with it.

        :raises DemoFailure: it is in ERROR; with its fault
        """
        found: list[Any] = []

        def reached() -> bool:
            shown = self.sdk.compute.get_server(server)
            if shown.status == "ERROR" and wanted != "ERROR":
                fault = (shown.fault or {}).get("message", "no fault given")
                raise DemoFailure(f"{shown.name} {wanted}", f"ERROR: {fault}", log)
            found[:] = [shown]
            return shown.status == wanted and shown.task_state is None

        self.until(reached, f"server {server} {wanted}", log)
        return found[0]

    def snapshot(self, server: str, name: str, log: Path) -> str:
        """Make an image of a server; its id, once it is active."""
        image = self.sdk.compute.create_server_image(server, name=name).id

        def settled() -> bool:
            try:
                status = self.sdk.image.get_image(image).status
            except openstack.exceptions.NotFoundException:
                status = "gone: Nova deletes what it could not fill"
            expect(
                status in ("queued", "saving", "active"),
                f"the snapshot {name} to become active",
                status,
                log,
            )
            return status == "active"

        self.until(settled, f"the snapshot {name} active", log)
        return str(image)

    def delete(self, servers: list[str], log: Path) -> None:
        """Delete servers and wait until Nova knows none of them."""
        for server in servers:
            self.sdk.compute.delete_server(server, ignore_missing=True)
        left = list(servers)

        def gone() -> bool:
            for server in tuple(left):
                try:
                    shown = self.sdk.compute.get_server(server)
                except openstack.exceptions.NotFoundException:
                    left.remove(server)
                else:
                    task = shown.task_state
                    bad = shown.status == "ERROR" and task is None
                    expect(not bad, f"{shown.name} deleted", "ERROR", log)
            return not left

        self.until(gone, "the servers deleted", log)


def add_library(host: Host) -> None:
    """Give a host an SR for CDs, marked as the guide says."""
    (ref,) = host.call("host.get_all")
    place = {"location": "server:/isos"}
    library = host.call(
        *("SR.create", ref, place, "0", "ISO library", "", "iso", "iso", False, {})
    )
    host.call("SR.set_other_config", library, {"i18n-key": "local-storage-iso"})


class Matrix:
    """Runs rows on a cloud, each once, several at a time.

    :ivar images: kind to what was uploaded, once for all nodes
    :ivar booted: node to the ids of the images that its servers were made from
    :ivar parts: ids of the kernels and ramdisks of an image
    """

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.source = made_images.raw_disk(folder / "source")
        self.hosts: dict[str, Host] = {host.node.name: host for host in cloud.hosts}
        for host in cloud.hosts:
            add_library(host)
        self.before = {
            name: host.admin("inventory") for name, host in self.hosts.items()
        }
        self.booted: dict[str, dict[str, str]] = {name: {} for name in self.hosts}
        self.parts: dict[str, set[str]] = {}
        self._threads = threading.local()
        self._images: dict[str, Future[tuple[Image, str]]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS)
        self.flavors: dict[int, str] = {}
        for gib in (0, 1):
            made = self.api.sdk.compute.create_flavor(
                name=f"matrix.{gib}", ram=64, vcpus=1, disk=gib
            )
            self.flavors[gib] = made.id

    @property
    def api(self) -> Api:
        """The APIs of this thread."""
        if not hasattr(self._threads, "api"):
            self._threads.api = Api(self.cloud)
        api: Api = self._threads.api
        return api

    def log_of(self, node: str) -> Path:
        name = self.hosts[node].node.process("nova-compute")
        return self.cloud.layout.log_of(name)

    def start(self, row: Row) -> Future[Outcome]:
        return self._pool.submit(self.run, row)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def image(self, kind: str) -> tuple[Image, str]:
        """The image of a kind and its id in Glance; made by who asks first."""
        with self._lock:
            mine = kind not in self._images
            made = self._images.setdefault(kind, Future())
        if mine:
            try:
                image = made_images.make(kind, self.folder / kind, self.source)
                image_id, self.parts[kind] = self.api.upload(kind, image)
                made.set_result((image, image_id))
            except BaseException as exc:
                made.set_exception(exc)
        return made.result()

    def run(self, row: Row) -> Outcome:
        """Run a row to its end; whatever happens, its servers are deleted.

        :raises DemoFailure: something was not as it must be
        """
        outcome = Outcome(row)
        log, api = self.log_of(row.node), self.api
        servers: list[str] = []
        with outcome.phase("upload"):
            image, image_id = self.image(row.kind)
        try:
            with outcome.phase("boot"):
                name = self._boot(row, image_id, servers)
            with outcome.phase("compare"):
                self.compare(row.node, name, image)
            if row.snapshot:
                self._snapshot(row, outcome, image, servers)
        finally:
            with outcome.phase("delete"):
                api.delete(servers, log)
        return outcome

    def _boot(self, row: Row, image_id: str, servers: list[str]) -> str:
        """Build a server and wait for it; the name of its VM."""
        # What is made of a snapshot has the size that its server had.
        flavor = self.flavors[0 if servers else row.disk]
        name = f"{row}-{len(servers) + 1}"
        server = self.api.create(name, row.node, image_id=image_id, flavor_id=flavor)
        servers.append(server)
        shown = self.api.wait_server(server, "ACTIVE", self.log_of(row.node))
        self.booted[row.node][image_id] = row.kind
        vm = str(shown.instance_name)
        found = self.hosts[row.node].vm(vm)
        state = found["power_state"] if found else "no VM"
        expect(state == "Running", f"{vm} Running", state, self.log_of(row.node))
        return vm

    def _snapshot(
        self, row: Row, outcome: Outcome, image: Image, servers: list[str]
    ) -> None:
        api, log = self.api, self.log_of(row.node)
        vm = str(api.sdk.compute.get_server(servers[0]).instance_name)
        if row.stopped:
            with outcome.phase("change"):
                api.sdk.compute.stop_server(servers[0])
                api.wait_server(servers[0], "SHUTOFF", log)
                image = self.change(row, vm, image)
        with outcome.phase("snapshot"):
            taken = api.snapshot(servers[0], f"{row}-snapshot", log)
            wanted = "SHUTOFF" if row.stopped else "ACTIVE"
            api.wait_server(servers[0], wanted, log)
        with outcome.phase("boot the snapshot"):
            again = self._boot(row, taken, servers)
        with outcome.phase("compare again"):
            self.compare(row.node, again, image)
            self.compare(row.node, vm, image)
        api.sdk.image.delete_image(taken)

    # What is on the disks

    def change(self, row: Row, vm: str, image: Image) -> Image:
        """Write into the root disk of a halted server what its guest would have."""
        folder = self.folder / str(row)
        folder.mkdir()
        changed = folder / "changed.raw"
        with changed.open("wb") as disk:
            with image.content.open("rb") as before:
                disk.seek(image.offset)
                shutil.copyfileobj(before, disk)
            disk.seek(MIB)
            disk.write(str(row).encode() * 1000)
        host = self.hosts[row.node]
        host.overwrite(host.drive(self._vm(row.node, vm)), changed)
        return made_images.Image(changed, "raw", "bare", changed)

    def _vm(self, node: str, name: str) -> dict[str, Any]:
        found = self.hosts[node].vm(name)
        if found is None:
            raise DemoFailure(f"a VM {name}", "none", self.log_of(node))
        return found

    def compare(self, node: str, vm: str, image: Image) -> None:
        """Hold the disk of a server against its image, byte for byte.

        :raises DemoFailure: another byte, or another length
        """
        host = self.hosts[node]
        record = self._vm(node, vm)
        if image.cd:
            begins_with(host.file(host.drive(record, "1")), image)
            return
        leaf = host.root_disk(record)
        raw = self.folder / f"{vm}-{leaf.stem}.raw"
        run([SYSTEM_PYTHON, str(READER), str(leaf), str(raw)])
        try:
            begins_with(raw, image)
        finally:
            raw.unlink()


def begins_with(raw: Path, image: Image) -> None:
    """Hold a flat disk against what its image says: the content, then zeros.

    :raises DemoFailure: with the first place that differs
    """
    size = raw.stat().st_size
    behind = image.offset + image.content.stat().st_size
    expect(size >= behind, f"a disk of {behind} bytes", f"{size} in {raw.name}")
    with raw.open("rb") as disk, image.content.open("rb") as content:
        disk.seek(image.offset)
        while wanted := content.read(MIB):
            at = disk.tell()
            seen = disk.read(len(wanted))
            expect(seen == wanted, "the image's bytes", f"others from {at} on")
        for at, piece in written(disk, behind):
            expect(not piece.strip(b"\0"), "zeros behind the image", f"others at {at}")


def written(file: BinaryIO, at: int) -> Iterator[tuple[int, bytes]]:
    """What a sparse file has from an offset on, without its holes."""
    with contextlib.suppress(OSError):  # ENXIO: only a hole is left
        while piece := os.pread(file.fileno(), MIB, at):
            yield at, piece
            at = os.lseek(file.fileno(), at + len(piece), os.SEEK_DATA)
