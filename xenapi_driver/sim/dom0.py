# SPDX-License-Identifier: Apache-2.0
"""The simulated host's dom0: a scratch root in which the real plugins run.

``host.call_plugin`` executes a plugin file as a process, the way a host does.
One thing differs: the environment names the scratch root, and the plugins put
it before every absolute path of the host that they use.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from xenapi_driver.sim.doors.xenstore_socket import XenstoreSocket
from xenapi_driver.sim.storage import block_devices
from xenapi_driver.sim.xenstore import Xenstore
from xenapi_driver.sim.xenstore_client import RemoteXenstore

PLUGINS = "etc/xapi.d/plugins"
SR_MOUNT = "run/sr-mount"
BLOCKS = "run/blocks"
XAPI = "var/lib/xcp/xapi"
# What the host has without our doing.
SHIPPED = Path(__file__).with_name("plugins")
DIRECTORIES = (
    PLUGINS,
    SR_MOUNT,
    BLOCKS,
    "boot/guest",
    "images",
    "tmp",
    "run/lock",
    "var/lib/xcp/guest",
    "var/lock",
    "var/log",
)
PATH = "/sbin:/usr/sbin:/bin:/usr/bin"  # all of the environment that xapi leaves
MAX_ARGUMENT = 128 * 1024  # Linux, MAX_ARG_STRLEN: one argument with its NUL
_LONGEST_NAME = 255  # bytes of a file name, NAME_MAX
# Not what a plugin leaves behind: its code, its log, and locks, which are empty files.
_NOT_SCRATCH = (PLUGINS, "var/log", "run/lock", "var/lock")
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DISK = re.compile(rf"{SR_MOUNT}/[^/]+/{_UUID}\.(vhd|raw)")

NoBlockDevices = block_devices.NoBlockDevices


class PluginError(Exception):
    """A plugin call failed.

    :ivar error: XAPI's ErrorDescription, a list of str
    """

    def __init__(self, error: list[str]) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return ": ".join(self.error)


def _runs(python: str) -> str | None:
    """Return the interpreter behind ``python``, or None when it does not run."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def find_dom0_python() -> str:
    """Return a Python like dom0's 3.6 when the machine has one, else ours.

    ``python3.6`` in PATH may be a launcher that finds nothing to launch, and
    one that does finds nothing with a plugin's environment: so it is asked.
    """
    on_path = shutil.which("python3.6")
    found = _runs(on_path) if on_path else None
    if found:
        return found
    if pyenv := shutil.which("pyenv"):
        answer = subprocess.run([pyenv, "root"], capture_output=True, text=True)
        candidates = Path(answer.stdout.strip(), "versions").glob("3.6.*/bin/python")
        for candidate in sorted(candidates, reverse=True):
            if found := _runs(str(candidate)):
                return found
    return sys.executable


class Dom0:
    """A scratch root with plugins in it.

    :param root: directory that stands for ``/`` of dom0
    :param plugins_dir: plugins that are put beside those that a host ships
    :param python: runs scripts that ask for python3; None: find_dom0_python()
    :param xenstore: socket of a real xenstored; None: one of our own
    :ivar xenstore: what is known to dom0 and the guests alike
    :ivar open_door: opens XAPI's own socket at a path, which only root can reach
    """

    def __init__(
        self,
        root: Path,
        plugins_dir: Path | None = None,
        python: str | None = None,
        xenstore: Path | None = None,
    ) -> None:
        self.xenstore = RemoteXenstore(xenstore) if xenstore else Xenstore()
        self._xenstore_path = xenstore
        self._xenstore_socket: XenstoreSocket | None = None
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self.python = python or find_dom0_python()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.open_door: Callable[[Path], object] = lambda path: None
        self._sockets: str | None = None
        self._closed = False
        for name in DIRECTORIES:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # Hosts still document the older name of /run.
        with contextlib.suppress(FileExistsError):
            (self.root / "var/run").symlink_to("../run")
        self.plugins = self.root / PLUGINS
        self._install(plugins_dir)
        self._blocks = block_devices.BlockDevices(self.root / BLOCKS)
        self.at_start = set(self._files())

    def _install(self, plugins_dir: Path | None) -> None:
        """Copy the plugins; each is also found under its name with ``.py``."""
        shutil.rmtree(self.plugins)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SHIPPED, self.plugins, ignore=ignored)
        for file in self.plugins.iterdir():
            # An installer may have lost the mode.
            file.chmod(0o755)
        if plugins_dir is not None:
            shutil.copytree(
                plugins_dir, self.plugins, ignore=ignored, dirs_exist_ok=True
            )
        for file in list(self.plugins.iterdir()):
            if file.is_file() and not file.suffix and os.access(file, os.X_OK):
                twin = file.with_suffix(".py")
                if not twin.exists():
                    shutil.copy2(file, twin)

    def call_plugin(
        self, name: str, fn: str, session_ref: str, args: dict[str, str]
    ) -> str:
        """Run one function of a plugin and return its answer; blocks meanwhile.

        :raises PluginError: no such plugin, or what the plugin failed with
        """
        file = self._executable(name)
        self.open_xapi()
        call = xmlrpc.client.dumps((session_ref, args), methodname=fn)
        if len(call.encode()) >= MAX_ARGUMENT:
            raise _plugin_failure("non-zero exit", "", "Argument list too long")
        code, stdout, stderr = self._run([*self._interpreter(file), str(file), call])
        if code < 0:
            name_of_signal = signal.Signals(-code).name
            raise _plugin_failure(f"signal: {name_of_signal}", stdout, stderr)
        if code:
            raise _plugin_failure("non-zero exit", stdout, stderr)
        return _parse_answer(stdout, stderr)

    def _executable(self, name: str) -> Path:
        file = self.plugins / name
        # No file system keeps a longer name.
        short = len(os.fsencode(name)) <= _LONGEST_NAME and "\0" not in name
        plain = short and Path(name).name == name and file.is_file()
        if not plain or not os.access(file, os.X_OK):
            raise PluginError(["XENAPI_MISSING_PLUGIN", name])
        return file

    def _interpreter(self, file: Path) -> list[str]:
        """Return what goes before the file: our Python for scripts that ask for 3."""
        with open(file, "rb") as script:
            first_line = script.readline(256)
        asks = first_line.startswith(b"#!") and b"python3" in first_line
        return [self.python] if asks else []

    def _run(self, command: list[str]) -> tuple[int, str, str]:
        environment = {
            "PATH": PATH,
            "XENAPI_DOM0_ROOT": str(self.root),
            "XENSTORED_PATH": str(self.xenstore_path()),
        }
        with self._lock:
            if self._closed:
                raise _plugin_failure("task stopped", "", "dom0 is shut down")
            try:
                process = subprocess.Popen(  # noqa: S603 - a file of ours, no shell
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    cwd=self.root,
                    start_new_session=True,
                )
            except OSError as error:
                raise _plugin_failure("non-zero exit", "", str(error)) from error
            self._running.add(process)
        try:
            stdout, stderr = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        return (
            process.returncode,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )

    def xenstore_path(self) -> Path:
        """Return the socket at which dom0's tools find the xenstore."""
        with self._lock:
            if self._xenstore_path is None and isinstance(self.xenstore, Xenstore):
                self._xenstore_socket = XenstoreSocket(self.xenstore)
                self._xenstore_path = self._xenstore_socket.path
            return Path(str(self._xenstore_path))

    def open_xapi(self) -> Path:
        """Return where XAPI listens for dom0's own programs, which is opened once.

        The path of a scratch root can be too long for a socket, so a link is there.
        """
        link = self.root / XAPI
        with self._lock:
            if self._sockets is None and not self._closed:
                self._sockets = tempfile.mkdtemp(prefix="xapi-")
                socket = Path(self._sockets, "xapi")
                self.open_door(socket)
                link.unlink(missing_ok=True)
                link.symlink_to(socket)
        return link

    def processes_alive(self) -> int:
        """Return how many plugin processes run now."""
        with self._lock:
            return sum(process.poll() is None for process in self._running)

    def settle(self) -> None:
        """Take what is there now for what a fresh host has."""
        self.at_start = set(self._files())

    def scratch_files(self) -> list[str]:
        """Return, relative to the root, what plugins made and left behind.

        Not counted: the plugins, logs, disks of an SR, what was there at start.
        A directory counts, with a slash, when it lies empty inside an SR.
        """
        return sorted(name for name in self._files() if name not in self.at_start)

    def _files(self) -> list[str]:
        found = []
        for directory, names, files in os.walk(self.root):
            below = Path(directory).relative_to(self.root)
            if below.as_posix() in _NOT_SCRATCH:
                names.clear()
                continue
            inside_sr = below.is_relative_to(SR_MOUNT) and len(below.parts) > 3
            if inside_sr and not names and not files:
                found.append(f"{below.as_posix()}/")
            found += [(below / name).as_posix() for name in files]
        return [name for name in found if name != XAPI and not _DISK.fullmatch(name)]

    def attach_block(
        self, vhd_path: Path, device: str, link_dir: Path, read_only: bool = False
    ) -> Path:
        """Show a VHD as a block device and return the link ``link_dir/device``.

        What is written there reaches the VHD when it is detached.

        :raises NoBlockDevices: this machine or user cannot; the text says why
        """
        return self._blocks.attach(vhd_path, device, link_dir, read_only)

    def take_up_block(
        self, vhd_path: Path, device: str, link_dir: Path, read_only: bool = False
    ) -> None:
        """Show a VHD again as it was shown before the process was started anew.

        :raises NoBlockDevices: this machine or user cannot; the text says why
        """
        self._blocks.take_up(vhd_path, device, link_dir, read_only)

    def clear_blocks(self, link_dir: Path | None) -> None:
        """Remove what earlier block devices left, links in ``link_dir`` too."""
        self._blocks.clear(link_dir)

    def has_block(self, device: str) -> bool:
        """Return whether a block device of this name is there."""
        return device in self._blocks

    def sync_block(self, vhd_path: Path) -> None:
        """Bring a VHD up to date with what was written through its device."""
        self._blocks.sync(vhd_path)

    def detach_block(self, device: str, force: bool = False) -> None:
        """Write changes back into the VHD and take the device away.

        :raises block_devices.DeviceBusy: somebody still uses it, and not ``force``
        """
        self._blocks.detach(device, force)

    def close(self) -> None:
        """End running plugins and take devices away; can be called again."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _end(process)
        self._blocks.close()
        if self._xenstore_socket is not None:
            self._xenstore_socket.close()
            self._xenstore_socket = None
        if isinstance(self.xenstore, RemoteXenstore):
            self.xenstore.close()
        if self._sockets is not None:
            # A link to nothing would be in the way of who copies the folder.
            (self.root / XAPI).unlink(missing_ok=True)
            shutil.rmtree(self._sockets, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a plugin with all that it started; it has 5 s to tidy up."""
    # A session of its own makes its pid the group's number as well.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _plugin_failure(status: str, stdout: str, stderr: str) -> PluginError:
    return PluginError(["XENAPI_PLUGIN_FAILURE", status, stdout, stderr])


def _parse_answer(stdout: str, stderr: str) -> str:
    """Return the Value of a plugin's methodResponse.

    :raises PluginError: with the plugin's own error, or that it answered rubbish
    """
    try:
        params, method = xmlrpc.client.loads(stdout)
    except xmlrpc.client.Fault as fault:
        number, text = str(fault.faultCode), str(fault.faultString)
        raise _plugin_failure("fault", number, text) from None
    except (ExpatError, xmlrpc.client.Error, ValueError, LookupError, TypeError):
        raise _plugin_failure("failed to parse plugin output", stdout, stderr) from None
    if len(params) != 1 or method is not None:
        raise _plugin_failure("unexpected XMLRPC result", stdout, stderr)
    answer: Any = params[0]
    if not isinstance(answer, dict):
        raise _wrong_type(answer, "struct")
    value, error = answer.get("Value"), answer.get("ErrorDescription")
    if answer.get("Status") == "Success":
        if isinstance(value, str):
            return value
        raise _wrong_type(value, "string")
    if answer.get("Status") == "Failure" and error and isinstance(error, list):
        raise PluginError([str(item) for item in error])
    raise _plugin_failure("unexpected XMLRPC result", stdout, stderr)


def _wrong_type(value: Any, wanted: str) -> PluginError:
    """Return what xapi says of a value that is no ``wanted``."""
    names = ((str, "string"), (dict, "struct"), (list, "array"), (object, "value"))
    found = next(name for kind, name in names if isinstance(value, kind))
    text = f"unbox: Element={found} should contain '{wanted}'"
    return PluginError(["INTERNAL_ERROR", f'XMLRPC.RunTimeTypeError("{text}", _)'])
