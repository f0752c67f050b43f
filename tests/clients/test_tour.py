# SPDX-License-Identifier: Apache-2.0
"""The tour of the embedded host's page: every command on it, in order.

A literal block after a line that is only a file's name is that file. In other blocks
each line after ``$`` is a command and what follows is its output, in which ``...``
stands for anything. The first command is the host itself.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.clients.conftest import absent
from tests.clients.environments import BELOW, HERE, PINS, ROOT, find_python

PAGE = ROOT / "doc" / "source" / "user" / "embedded-host.rst"
SECONDS = 180
HOST = "xenapi-driver sim"


@dataclass
class Command:
    """A line to type and the output that the page shows."""

    line: str
    output: list[str] = field(default_factory=list)

    def matches(self, said: str) -> bool:
        shown = "\n".join(self.output)
        pattern = ".*".join(re.escape(part) for part in shown.split("..."))
        return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None


@dataclass
class Section:
    """A heading, and the files and commands below it in order."""

    title: str
    steps: list[tuple[str, str] | Command] = field(default_factory=list)

    def read(self, name: str, block: str) -> None:
        """Add a literal block: a file where it has a name, else commands."""
        if name:
            self.steps.append((name, block))
            return
        for line in block.splitlines():
            if line.startswith("$ "):
                self.steps.append(Command(line[2:]))
            elif line.strip():
                self.steps[-1].output.append(line)


def sections(text: str) -> list[Section]:
    """Return the tour's sections that have something to do."""
    tour = text.partition("\nA tour of five minutes\n")[2].partition("\nGuests\n")[0]
    found = [Section("")]
    lines = tour.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if re.fullmatch(r"-{3,}", line):
            found.append(Section(lines[at - 2]))
        if not line.endswith("::"):
            continue
        begin = at
        while at < len(lines) and (not lines[at] or lines[at].startswith("   ")):
            at += 1
        name = re.fullmatch(r"``(\S+)``::", line)
        block = "\n".join(inner[3:] for inner in lines[begin:at]).strip("\n") + "\n"
        found[-1].read(name[1] if name else "", block)
    return [section for section in found if section.steps]


TOUR = sections(PAGE.read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Visitor:
    """Somebody with a terminal, a folder and the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tour"
        self.folder.mkdir()
        self.port = str(free_port())
        self.host: subprocess.Popen | None = None
        # What npm and pip take is pinned as for the other tests.
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PINS / "xen-api" / name, self.folder)
        pins = folder / "constraints.txt"
        names = ("xenapi", "async-xenapi", "ansible")
        pins.write_text("".join((PINS / f"{name}.txt").read_text() for name in names))
        self.environ = {
            **os.environ,
            "PATH": self._path(folder),
            "PYTHONPATH": f"{folder / 'hook'}:{ROOT}",
            "PIP_CONSTRAINT": str(pins),
            "PIP_NO_COMPILE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_IGNORE_REQUIRES_PYTHON": "1",
            "HOME": str(folder),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
        }

    def _path(self, folder: Path) -> str:
        """Return a PATH on which everything is found that the page takes as given."""
        own = folder / "bin"
        own.mkdir()
        (folder / "hook").mkdir()
        if find_python("3.14") is None:
            # See postponed_annotations.
            python = find_python("3.13", "3.12") or sys.executable
            (own / "python3.14").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
            (own / "python3.14").chmod(0o755)
            hook = folder / "hook" / "sitecustomize.py"
            shutil.copy(HERE / "postponed_annotations.py", hook)
        parts = [own, Path(sys.executable).parent, BELOW / "xen-api" / "node" / "bin"]
        return ":".join([*map(str, parts), os.environ["PATH"], "/usr/sbin"])

    def _here(self, text: str) -> str:
        return text.replace("8080", self.port)

    def take(self, step: tuple[str, str] | Command) -> None:
        """Write a file, or type a command and compare what it says."""
        if isinstance(step, tuple):
            (self.folder / step[0]).write_text(self._here(step[1]))
            return
        wanted = Command(self._here(step.line), [self._here(t) for t in step.output])
        word = wanted.line.split()[0]
        where = self.environ["PATH"]
        found = (self.folder / word).exists() if "/" in word else None
        if not (found or shutil.which(word, path=where)):
            absent(f"no {word} here")
        if wanted.line.startswith(HOST):
            self._start(wanted)
            return
        done = subprocess.run(
            ["bash", "-c", wanted.line],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert wanted.matches(done.stdout), f"$ {wanted.line}\n{done.stdout}"

    def _start(self, wanted: Command) -> None:
        self.host = subprocess.Popen(
            ["bash", "-c", f"exec {wanted.line}"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = "".join(self.host.stdout.readline() for _ in wanted.output)
        assert wanted.matches(said), said

    def leave(self) -> None:
        """End the host; it has to have been there until now."""
        if self.host is None:
            return
        running = self.host.poll() is None
        self.host.terminate()
        try:
            self.host.wait(timeout=20)
        finally:
            self.host.kill()
            self.host.stdout.close()
        assert running and self.host.returncode == 0


@pytest.fixture(scope="module")
def visitor(tmp_path_factory, environment):
    found = Visitor(tmp_path_factory.mktemp("visitor"))
    # Its twenty thousand files are there already: installing finds that they are.
    made = environment("ansible")
    scripts = [path for path in (made / "bin").iterdir() if not path.is_symlink()]
    (found.folder / "ansible" / "bin").mkdir(parents=True)
    for script in scripts:
        shutil.copy(script, found.folder / "ansible" / "bin")
    (found.folder / "ansible" / "lib").symlink_to(made / "lib")
    yield found
    found.leave()


@pytest.mark.parametrize("section", TOUR, ids=lambda section: section.title)
def test_section(visitor, section):
    if visitor.host is None and section is not TOUR[0]:
        pytest.fail("the host of the first section does not run")
    for step in section.steps:
        visitor.take(step)


def test_tour_was_read():
    """An empty page would pass all of the above."""
    commands = [s for section in TOUR for s in section.steps if isinstance(s, Command)]
    assert commands[0].line.startswith(HOST)
    on_page = re.findall(r"^ +\$ (.*)$", PAGE.read_text(), re.MULTILINE)
    assert on_page == [command.line for command in commands]
    assert len(TOUR) >= 9


def test_comparison_can_fail():
    command = Command("x", ["a...b"])
    assert command.matches("a and b\n")
    assert not command.matches("a and c")
    assert not Command("x").matches("anything")
