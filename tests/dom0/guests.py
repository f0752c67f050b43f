# SPDX-License-Identifier: Apache-2.0
"""Guests for the dom0 plugins: a domain, and the agent that runs inside it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xenapi_driver.sim.xenstore import Refusal
from xenapi_driver.sim.xenstore_client import RemoteXenstore

# What agents in the field use ("driver behaviour", 5.17).
PRIME, BASE = 162259276829213363391578010288127, 5

Answer = Callable[[str, Any], Any]


class Domain:
    """A VM of the host that runs, so that xenstore has its domain."""

    def __init__(self, host: Any, name: str = "guest") -> None:
        self._host = host
        api = host.api.xenapi
        template = api.VM.get_by_name_label("Other install media")[0]
        self.vm = api.VM.clone(template, name)
        api.VM.provision(self.vm)
        api.VM.start(self.vm, False, True)
        self.uuid = api.VM.get_uuid(self.vm)

    @property
    def id(self) -> int:
        """The number of its domain, another one after each start."""
        return int(self._host.api.xenapi.VM.get_domid(self.vm))

    @property
    def home(self) -> str:
        return f"/local/domain/{self.id}"

    def reboot(self) -> None:
        self._host.api.xenapi.VM.hard_reboot(self.vm)

    def stop(self) -> None:
        self._host.api.xenapi.VM.hard_shutdown(self.vm)


class GuestAgent:
    """Speaks the documented protocol from the guest's side.

    :ivar asked: name and value of every question, in order
    :ivar does: what it does for a name: a function of name and value that returns the
        text of the answer; None: it never answers
    """

    def __init__(self, socket: Path, domid: int, features: str = "") -> None:
        self._store = RemoteXenstore(socket)
        self._home = f"/local/domain/{domid}/data"
        self.asked: list[tuple[str, Any]] = []
        self.features = features
        self.files: dict[str, bytes] = {}
        self.password: str | None = None
        self._secret = 0
        self.does: dict[str, Answer | None] = {
            "version": lambda name, value: said("0", "1.39.1"),
            "features": lambda name, value: said("0", self.features),
            "keyinit": self._exchange,
            "password": self._set_password,
            "resetnetwork": lambda name, value: said("0", ""),
            "file_inject": self._file,
            "injectfile": self._old_file,
            "agentupdate": lambda name, value: said("0", ""),
        }
        self._wake = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[GuestAgent]:
        self._store.watch(lambda path: self._wake.set())
        self._wake.set()
        self._thread.start()
        try:
            yield self
        finally:
            self._ends = True
            self._wake.set()
            self._thread.join(10)
            self._store.close()

    def _serve(self) -> None:
        done = set()
        while not self._ends:
            self._wake.wait()
            self._wake.clear()
            for name in self._questions():
                if name not in done:
                    done.add(name)
                    self._answer(name)

    def _questions(self) -> list[str]:
        try:
            return self._store.list(f"{self._home}/host")
        except Refusal:
            return []

    def _answer(self, name: str) -> None:
        at = f"{self._home}/host/{name}"
        try:
            question = json.loads(self._store.read(at))
        except (Refusal, ValueError):
            return  # taken back, or somebody else's
        self.asked.append((question["name"], question["value"]))
        unknown = said("500", "not implemented")
        act = self.does.get(question["name"], lambda name, value: unknown)
        text = act(question["name"], question["value"]) if act else None
        if text is None:
            return
        data = text if isinstance(text, bytes) else text.encode()
        with contextlib.suppress(Refusal):
            self._store.write(f"{self._home}/guest/{name}", data)
            self._store.remove(at)

    def _exchange(self, name: str, value: str) -> str:
        private = 1234567890123456789
        self._secret = pow(int(value), private, PRIME)
        return said("D0", str(pow(BASE, private, PRIME)))

    def _set_password(self, name: str, value: str) -> str:
        text = decrypted(str(self._secret), value)
        if text is None:
            return said("500", "Couldn't decrypt password")
        self.password = text.split("\n")[0]
        return said("0", "")

    def _file(self, name: str, value: dict[str, str]) -> str:
        path = base64.b64decode(value["b64_path"]).decode()
        self.files[path] = base64.b64decode(value["b64_file"])
        return said("0", "")

    def _old_file(self, name: str, value: str) -> str:
        path, content = base64.b64decode(value).split(b",", 1)
        self.files[path.decode()] = content
        return said("0", "")


def said(code: Any, message: Any) -> str:
    return json.dumps({"returncode": code, "message": message})


def slow(seconds: float, answer: Answer) -> Answer:
    """Return an act that takes its time."""

    def act(name: str, value: Any) -> Any:
        time.sleep(seconds)
        return answer(name, value)

    return act


def _openssl(secret: str, *options: str) -> list[str]:
    """Return openssl's command with the key that the agents derive, by MD5."""
    key = hashlib.md5(secret.encode()).digest()
    start = hashlib.md5(key + secret.encode()).digest()
    keys = ["-K", key.hex(), "-iv", start.hex()]
    return ["openssl", "enc", "-aes-128-cbc", "-a", "-A", *keys, *options]


def decrypted(secret: str, text: str) -> str | None:
    """Return what a text of base64 holds, None where the key is wrong."""
    done = subprocess.run(
        _openssl(secret, "-d"), input=text.encode(), capture_output=True
    )
    return None if done.returncode else done.stdout.decode(errors="replace")


def encrypted(secret: str, text: str) -> str:
    """Return a text as the driver sends it, base64 on one line."""
    done = subprocess.run(
        _openssl(secret), input=text.encode(), capture_output=True, check=True
    )
    return done.stdout.decode().strip()
