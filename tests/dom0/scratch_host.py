# SPDX-License-Identifier: Apache-2.0
"""A host whose dom0 is a folder, in which the real plugins run as processes."""

from __future__ import annotations

import json
import os
import subprocess
import xmlrpc.client
from pathlib import Path
from typing import Any

import XenAPI

from xenapi_driver.sim import Simulator

PLUGINS = Path(__file__).parents[2] / "dom0_plugins/etc/xapi.d/plugins"


class PluginFailed(Exception):
    """A Failure answer: code and parameters."""

    def __init__(self, description: list[str]) -> None:
        super().__init__(description)
        self.code = description[0]
        self.params = description[1:]


class ScratchHost:
    """The embedded host with the plugins of this tree and an interpreter for them.

    :ivar root: what its dom0 sees as ``/``
    :ivar api: a XenAPI session of root
    :ivar sr: where its local SR is; ``sr_path``: the same as dom0 names it
    """

    def __init__(self, folder: Path, python: str, **choices: Any) -> None:
        self.python = python
        self.sim = Simulator(
            folder, plugins_dir=PLUGINS, dom0_python=python, **choices
        )
        self.dom0 = self.sim.world.dom0
        self.root = self.dom0.root
        self.api = self.sim.session()
        self.api.xenapi.login_with_password("root", "secret", "1.0", "test")
        self.host_ref = self.api.xenapi.host.get_by_uuid(self.sim.host_uuid)
        self.sr_uuid = self.sim.default_sr_uuid
        self.sr_path = f"/run/sr-mount/{self.sr_uuid}"
        self.sr = self.root / self.sr_path.lstrip("/")
        self._at_start = set(self._in_sr())

    def close(self) -> None:
        self.sim.close()

    def call(self, plugin: str, fn: str, request: Any) -> Any:
        """Carry out one call through XAPI; raise PluginFailed for a Failure."""
        text = request if isinstance(request, str) else json.dumps(request)
        return self.call_with(plugin, fn, {"request": text})

    def call_with(self, plugin: str, fn: str, arguments: dict[str, str]) -> Any:
        """The same with the arguments as they travel."""
        try:
            value = self.api.xenapi.host.call_plugin(
                self.host_ref, plugin, fn, arguments
            )
        except XenAPI.Failure as exc:
            raise PluginFailed(exc.details) from None
        return json.loads(value)

    def start(self, plugin: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a plugin as XAPI does, to be looked at or killed by its pid."""
        self.dom0.open_xapi()
        return subprocess.Popen(
            [self.python, str(self.dom0.plugins / plugin), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        """What a program of this dom0 sees."""
        return {
            "PATH": "/sbin:/usr/sbin:/bin:/usr/bin",
            "XENAPI_DOM0_ROOT": str(self.root),
            "XENSTORED_PATH": str(self.dom0.xenstore_path()),
        }

    def document(self, fn: str, request: Any) -> str:
        """Return the one argument that XAPI gives a plugin."""
        text = request if isinstance(request, str) else json.dumps(request)
        session = self.api._session  # what the package keeps it as
        return xmlrpc.client.dumps((session, {"request": text}), fn)

    def start_call(self, plugin: str, fn: str, request: Any) -> subprocess.Popen[bytes]:
        return self.start(plugin, self.document(fn, request))

    def wrap(self, name: str, script: str) -> Path:
        """Put a program into the dom0, in place of the machine's own of that name."""
        file = self.root / "usr/bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script)
        file.chmod(0o755)
        return file

    def left(self) -> list[str]:
        """Return what came into the SR, staging folders included."""
        return sorted(set(self._in_sr()) - self._at_start)

    def _in_sr(self) -> list[str]:
        return [
            os.path.relpath(os.path.join(folder, name), self.sr)
            for folder, folders, files in os.walk(self.sr)
            for name in folders + files
        ]


def answer(out: bytes) -> Any:
    """Return the value of a methodResponse as xapi reads it."""
    (struct,), _method = xmlrpc.client.loads(out.decode("utf-8"))
    if struct["Status"] != "Success":
        assert all(isinstance(item, str) for item in struct["ErrorDescription"])
        raise PluginFailed(struct["ErrorDescription"])
    assert isinstance(struct["Value"], str)
    return json.loads(struct["Value"])
