# SPDX-License-Identifier: Apache-2.0
"""Daemons that are started once, recorded, and stopped by what was recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.failure import DemoFailure
from demo.layout import LOOPBACK, Layout

# What would lead a service to another cloud, another Python or a proxy.
FOREIGN = ("OS_", "RABBITMQ_", "PYTHON", "http_", "https_", "HTTP_", "HTTPS_")
# Every Python service imports for seconds: interactive work stays ahead of it.
NICENESS = 5
Argv = Sequence[str | Path | int]


def started_at(pid: int) -> str | None:
    """The kernel's start time of a process: guards against a recycled pid.

    :returns: clock ticks since boot as text; None for no process or a zombie
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else fields[19]  # proc(5): state, starttime


def answers(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


class Processes:
    """The processes of one state folder, known by name."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        own = self.layout.prefix / "bin"
        env["PATH"] = f"{own}:{env.get('PATH', '')}:/usr/sbin:/sbin"
        env["LC_ALL"] = "C.UTF-8"
        env.update(extra or {})
        return env

    def _record(self, name: str) -> Path:
        return self.layout.run / f"{name}.json"

    def names(self) -> list[str]:
        """Every recorded name, oldest first."""
        files = self.layout.run.glob("*.json")
        return [f.stem for f in sorted(files, key=lambda f: f.stat().st_mtime_ns)]

    def pid(self, name: str) -> int | None:
        """The pid of a recorded process that still runs, else None."""
        try:
            record = json.loads(self._record(name).read_text())
        except (OSError, ValueError):
            return None
        pid = int(record["pid"])
        return pid if record["start"] and started_at(pid) == record["start"] else None

    def start(
        self,
        name: str,
        argv: Argv,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        listens: int | None = None,
    ) -> None:
        """Start a daemon in a session of its own; its output goes to its log.

        :raises DemoFailure: its port is taken by something else
        """
        if listens is not None and answers(listens):
            raise DemoFailure(
                f"port {listens} to be free for {name} (DEMO_PORT_OFFSET moves all)",
                "something listens there",
            )
        with open(self.layout.log_of(name), "ab", 0) as log:
            process = subprocess.Popen(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(env),
                cwd=cwd or self.layout.state,
                start_new_session=True,
                preexec_fn=lambda: os.nice(NICENESS),
            )
        self._record(name).write_text(
            json.dumps({"pid": process.pid, "start": started_at(process.pid)})
        )

    def stop(self, name: str, grace: float = 15.0) -> None:
        """End a process and what is left of its session; none is fine."""
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace
            while started_at(pid) and time.monotonic() < deadline:
                reap(pid)
                time.sleep(0.05)
            # start_new_session: the group id is the pid; only ours are in it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            reap(pid)
        self._record(name).unlink(missing_ok=True)

    def stop_all(self, last: Sequence[str]) -> None:
        """Stop everything; ``last`` is what the others lean on, in this order."""
        names = self.names()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.stop, [n for n in names if n not in last]))
        for name in last:
            self.stop(name, 30)

    def command(
        self, argv: Argv, log: str, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a command to its end, its output in the log of that name.

        :raises DemoFailure: it ended with another status than 0
        """
        path = self.layout.log_of(log)
        with open(path, "ab", 0) as out:
            done = subprocess.run(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment(env),
                cwd=self.layout.state,
                check=False,
            )
        if done.returncode:
            words = " ".join(str(a) for a in argv[:4])
            raise DemoFailure(f"{words} to succeed", f"status {done.returncode}", path)

    def wait(
        self, name: str, ready: Callable[[], bool], what: str, seconds: float = 120
    ) -> None:
        """Wait for a daemon until ``ready()``.

        :raises DemoFailure: the daemon ended, or the time is over
        """
        log = self.layout.log_of(name)
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid(name) is None:
                raise DemoFailure(f"{name} to run", "it ended early", log)
            if time.monotonic() > deadline:
                raise DemoFailure(f"{name} {what}", f"not after {seconds:.0f} s", log)
            time.sleep(0.1)

    def wait_port(self, name: str, seconds: float = 120) -> None:
        port = self.layout.port(name)
        self.wait(name, lambda: answers(port), f"to listen on {port}", seconds)

    def wait_http(self, name: str, path: str = "/") -> None:
        url = self.layout.url(name, path)
        self.wait(name, lambda: responds(url), f"to answer {url}", 180)


def reap(pid: int) -> None:
    """Collect a child that ended; one started by an earlier run is not ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def responds(url: str) -> bool:
    """Whether a web service answers with anything but a server's error."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False
    return True
