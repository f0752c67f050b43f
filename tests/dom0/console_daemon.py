# SPDX-License-Identifier: Apache-2.0
"""A stand-in for XenServer's xenconsoled, as far as it writes guests' logs.

Debian's knows nothing of ``/local/logconsole``: that is XenServer's own.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import BinaryIO

from tests.dom0.xenstore_daemons import Tools

KEYS = "/local/logconsole"


class ConsoleDaemon:
    """Logs to where the key ``@`` says, and opens a log anew when its key changes.

    :ivar deaf: it takes no notice of changed keys
    """

    def __init__(self, tools: Tools, root: Path) -> None:
        self._tools = tools
        self._root = root
        self._logs: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()
        self.deaf = False
        self.reopened: list[int] = []
        self._watch = subprocess.Popen(
            ["xenstore-watch", KEYS],
            env={**os.environ, "XENSTORED_PATH": str(tools.path)},
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        # The first event says that it watches.
        assert self._watch.stdout is not None
        self._watch.stdout.readline()
        self._thread.start()

    def write(self, dom_id: int, data: bytes) -> None:
        """Log what a guest writes to its console."""
        with self._lock:
            if dom_id not in self._logs:
                self._logs[dom_id] = self._open(dom_id)
            self._logs[dom_id].write(data)

    def close(self) -> None:
        self._watch.kill()
        self._watch.wait()
        self._thread.join(10)
        for log in self._logs.values():
            log.close()

    def _open(self, dom_id: int) -> BinaryIO:
        template = self._tools.read(f"{KEYS}/@")
        assert template is not None
        path = self._root / (template % dom_id).lstrip("/")
        return open(path, "ab", buffering=0)

    def _serve(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            name = line.strip().rpartition("/")[2]
            if not name.isdigit() or self.deaf:
                continue
            with self._lock:
                if int(name) in self._logs:
                    self._logs.pop(int(name)).close()
                    self._logs[int(name)] = self._open(int(name))
                    self.reopened.append(int(name))
