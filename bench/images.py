# SPDX-License-Identifier: Apache-2.0
"""How fast the dom0 plugin ``glance`` moves an image, and how much memory it takes.

The plugin runs under a dom0's Python as XAPI starts it; beside it, in turn, the same
work is done by ``curl``, ``gzip`` or ``pigz``, and ``tar``. Both get two cores, the
image service on loopback runs in a process of its own, and what is read is in memory.
The plugin checks the data's hash and waits until the disk has it; the pipeline does
neither. Half of a disk's data is noise, half is what is found on a system.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.dom0 import interpreters, vhd_files

SIZES = (32, 128, 512)  # MiB of data on a disk of 1 GiB
CORES = 2
TIMES = 5
PROGRAMS = ("curl", "gzip", "pigz", "tar")
_GIB = 1024**3
_MIB = 1024**2
_PLUGIN = Path(__file__).parents[1] / "dom0_plugins/etc/xapi.d/plugins/glance"

DOWNLOAD, UPLOAD = "download_vhd", "upload_vhd"
PIPELINES = {
    DOWNLOAD: "curl -sSf {url}/file | gzip -d | tar -x -C {folder}",
    UPLOAD: "tar -c -C {folder} . | pigz -p 2 | curl -sSf -T - {url}/file",
}
OURS, THEIRS, PEAK = "plugin, MiB/s", "pipeline, MiB/s", "plugin, MiB of memory"

# By what was done: by column: by MiB of data.
Found = dict[str, dict[str, dict[int, float]]]


def _noise_and_text() -> Iterator[bytes]:
    """Yield blocks of a disk for ever: noise, then what programs are made of."""
    dice = random.Random(1)
    library = Path(os.__file__).parent
    found = sorted(
        file for file in library.rglob("*") if file.suffix in (".py", ".so", ".pyc")
    )
    files = itertools.cycle(found)
    text = bytearray()
    while True:
        yield dice.randbytes(vhd_files.BLOCK)
        while len(text) < vhd_files.BLOCK:
            text += next(files).read_bytes()
        yield bytes(text[: vhd_files.BLOCK])
        del text[: vhd_files.BLOCK]


def write_disk(path: Path, megabytes: int) -> None:
    """Write a dynamic VHD of 1 GiB with so much data."""
    disk = vhd_files.VhdFile(virtual_size=_GIB)
    used = megabytes * _MIB // vhd_files.BLOCK
    entries = _GIB // vhd_files.BLOCK
    first = (vhd_files.TABLE + 4 * entries) // 512
    step = (512 + vhd_files.BLOCK) // 512
    table = [first + step * number for number in range(used)]
    table += [0xFFFFFFFF] * (entries - used)
    with path.open("wb") as out:
        out.write(disk.footer() + disk.header() + struct.pack(f">{entries}I", *table))
        for block in itertools.islice(_noise_and_text(), used):
            out.write(b"\xff" * 512 + block)
        out.write(disk.footer())


@dataclass
class Rig:
    """A scratch dom0 with one disk in its SR, and an image service that has it too."""

    root: Path
    python: str
    url: str
    disk: str
    sha512: str

    @property
    def sr_path(self) -> str:
        return f"/run/sr-mount/{next((self.root / 'run/sr-mount').iterdir()).name}"

    @property
    def sr(self) -> Path:
        return Path(f"{self.root}{self.sr_path}")

    def plugin(self, fn: str) -> tuple[list[str], Path | None]:
        """Return the plugin's command and the file that it makes, if any."""
        image_id, new = str(uuid.uuid4()), str(uuid.uuid4())
        url = f"{self.url}/v2/images/{image_id}"
        request: dict[str, Any] = {
            "image_id": image_id,
            "headers": {"X-Auth-Token": "token"},
            "sr_path": self.sr_path,
            "verify": {"ca_file": None, "insecure": False},
        }
        if fn == DOWNLOAD:
            checksum = {"algo": "sha512", "value": self.sha512}
            request.update(urls=[url + "/file"], uuid_stack=[new], checksum=checksum)
        else:
            request.update(urls=[url], vdi_uuids=[self.disk], properties={})
        call = xmlrpc.client.dumps(("", {"request": json.dumps(request)}), fn)
        made = self.sr / f"{new}.vhd" if fn == DOWNLOAD else None
        return [self.python, str(_PLUGIN), call], made


@contextlib.contextmanager
def rig(megabytes: int) -> Iterator[Rig]:
    """Make a rig for the length of a ``with``; its files are on a disk."""
    python = interpreters.find("3.6") or sys.executable
    with tempfile.TemporaryDirectory(prefix="bench-images-") as folder:
        sr = Path(folder, "root/run/sr-mount", str(uuid.uuid4()))
        sr.mkdir(parents=True)
        disk = str(uuid.uuid4())
        write_disk(sr / f"{disk}.vhd", megabytes)
        packed = Path(folder, "image.tgz")
        with packed.open("wb") as out:
            tar = ["tar", "-c", "-C", str(sr), "--transform", "s,[^/]*vhd,0.vhd,", "."]
            packing = subprocess.Popen(tar, stdout=subprocess.PIPE)
            subprocess.run(["pigz"], stdin=packing.stdout, stdout=out, check=True)
            packing.wait()
        sha512 = hashlib.sha512(packed.read_bytes()).hexdigest()
        command = [sys.executable, "-m", "bench.image_service", str(packed)]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            url = service.stdout.readline().strip()
            yield Rig(Path(folder, "root"), python, url, disk, sha512)
        finally:
            service.terminate()
            service.communicate()


class _Peak:
    """The most memory that a process and its children have had, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.megabytes = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            kib = sum(map(_high_water, [self._pid, *_children(self._pid)]))
            self.megabytes = max(self.megabytes, kib / 1024)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _cores() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _plugin(rigged: Rig, fn: str) -> tuple[float, float]:
    """Run the plugin; return seconds and MiB of memory."""
    command, made = rigged.plugin(fn)
    environment = {"PATH": os.defpath, "XENAPI_DOM0_ROOT": str(rigged.root)}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd="/", env=environment, preexec_fn=_cores
    )
    peak = _Peak(process.pid)
    out, _err = process.communicate()
    seconds = time.perf_counter() - began
    peak.end()
    ((answer,), _method) = xmlrpc.client.loads(out.decode())
    if answer["Status"] != "Success":
        raise RuntimeError(f"{fn}: {answer}")
    if made is not None:
        made.unlink()
    return seconds, peak.megabytes


def _pipeline(rigged: Rig, fn: str) -> float:
    """Run the programs that do the same; return seconds."""
    with tempfile.TemporaryDirectory(dir=rigged.root) as scratch:
        folder = scratch if fn == DOWNLOAD else rigged.sr
        url = f"{rigged.url}/v2/images/{uuid.uuid4()}"
        line = PIPELINES[fn].format(url=url, folder=folder)
        began = time.perf_counter()
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], check=True, preexec_fn=_cores
        )
        return time.perf_counter() - began


def _compare(rigged: Rig, fn: str, megabytes: int, times: int) -> dict[str, float]:
    """Return the figures of one direction: medians of runs that take turns."""
    ours, theirs, peaks = [], [], []
    for number in range(times + 1):
        os.sync()
        seconds, peak = _plugin(rigged, fn)
        os.sync()
        other = _pipeline(rigged, fn)
        if number:  # the first ones have read what the others find in memory
            ours.append(megabytes / seconds)
            theirs.append(megabytes / other)
        peaks.append(peak)
    return {
        OURS: statistics.median(ours),
        THEIRS: statistics.median(theirs),
        PEAK: max(peaks),
    }


def measure(sizes: Sequence[int] = SIZES) -> Found:
    """Return speeds and memory by direction, column and MiB of data."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise RuntimeError("not installed: " + ", ".join(missing))
    found: Found = {DOWNLOAD: {}, UPLOAD: {}}
    for megabytes in sizes:
        with rig(megabytes) as rigged:
            for fn, columns in found.items():
                figures = _compare(rigged, fn, megabytes, TIMES)
                for column, value in figures.items():
                    columns.setdefault(column, {})[megabytes] = value
    return found


def ratios(found: Found) -> dict[str, float]:
    """Return the plugin's speed in pipelines of the same work, and its memory."""
    kept: dict[str, float] = {}
    for fn, columns in found.items():
        most = max(columns[OURS])
        kept[f"ratio.{fn}"] = round(columns[OURS][most] / columns[THEIRS][most], 2)
        kept[f"peak_mib.{fn}"] = round(max(columns[PEAK].values()), 1)
    return kept
