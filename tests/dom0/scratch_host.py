# SPDX-License-Identifier: Apache-2.0
"""A dom0 in a folder, in which the real plugins run as processes."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
import xmlrpc.client
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).parents[2] / "dom0_plugins/etc/xapi.d/plugins"
SESSION = "OpaqueRef:8ab0c9b2-4d5e-4b0c-9d0e-6f0f3a4a1c11"


class PluginFailed(Exception):
    """A Failure answer: code and parameters."""

    def __init__(self, description: list[str]) -> None:
        super().__init__(description)
        self.code = description[0]
        self.params = description[1:]


class ScratchHost:
    """A scratch root with one mounted SR, and an interpreter for the plugins."""

    def __init__(self, root: Path, python: str) -> None:
        self.root = root
        self.python = python
        self.sr_uuid = str(uuid.uuid4())
        self.sr_path = f"/run/sr-mount/{self.sr_uuid}"
        self.sr = root / self.sr_path.lstrip("/")
        self.sr.mkdir(parents=True)

    def start(self, plugin: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a plugin with the environment that xapi gives it, and the root."""
        return subprocess.Popen(
            [self.python, str(PLUGINS / plugin), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={
                "PATH": "/sbin:/usr/sbin:/bin:/usr/bin",
                "XENAPI_DOM0_ROOT": str(self.root),
            },
        )

    def start_call(self, plugin: str, fn: str, request: Any) -> subprocess.Popen[bytes]:
        text = request if isinstance(request, str) else json.dumps(request)
        return self.start(
            plugin, xmlrpc.client.dumps((SESSION, {"request": text}), fn)
        )

    def call(self, plugin: str, fn: str, request: Any) -> Any:
        """Carry out one call; raise PluginFailed for a Failure answer."""
        process = self.start_call(plugin, fn, request)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        assert err == b"", err.decode()
        return answer(out)

    def left(self) -> list[str]:
        """Return what is in the SR, staging folders included."""
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.sr)
            for folder, folders, files in os.walk(self.sr)
            for name in folders + files
        )


def answer(out: bytes) -> Any:
    """Return the value of a methodResponse as xapi reads it."""
    (struct,), _method = xmlrpc.client.loads(out.decode("utf-8"))
    if struct["Status"] != "Success":
        assert all(isinstance(item, str) for item in struct["ErrorDescription"])
        raise PluginFailed(struct["ErrorDescription"])
    assert isinstance(struct["Value"], str)
    return json.loads(struct["Value"])
