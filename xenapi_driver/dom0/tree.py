# SPDX-License-Identifier: Apache-2.0
"""What is laid over a host's root directory, file by file.

It is made of the folder ``dom0_plugins`` by rules that need no list of names:

- below ``etc`` and ``usr`` everything counts, but not compiled Python and not what an
  editor left;
- a file that begins with ``#!`` is executable (0755), another one is not (0644): the
  modes of a source tree or of a wheel's installer do not matter;
- an executable plugin is also laid under its name with ``.py``, for those who call it
  so (``Entry.twin_of``);
- a file below ``etc`` outside of the plugins' folder is the operator's to change
  (``Entry.config``): a later release does not replace what was changed;
- ``RELEASE`` in the plugins' library says which package the files are of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence

PLUGINS = "etc/xapi.d/plugins"
LIBRARY = f"{PLUGINS}/xenapi_dom0"
RELEASE = f"{LIBRARY}/RELEASE"
TOPS = ("etc", "usr")

_UNWANTED = re.compile(r"(.*\.py[co]|.*~|\..*\.sw.|\.DS_Store|#.*#|\.gitkeep)\Z")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+]*\Z")


class TreeUnfit(Exception):
    """The folder holds what cannot be laid over a host; the message says what."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file on the host.

    :ivar path: below the host's root directory, such as ``etc/xapi.d/plugins/glance``
    :ivar twin_of: the path whose content it repeats; "" for a file of its own
    """

    path: str
    content: bytes
    twin_of: str = ""

    @property
    def mode(self) -> int:
        """Permissions, 0o755 or 0o644."""
        return 0o755 if self.content.startswith(b"#!") else 0o644

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def plugin(self) -> bool:
        """Whether it lies in the plugins' folder or below."""
        return self.path.startswith(f"{PLUGINS}/")

    @property
    def config(self) -> bool:
        """Whether what an operator changed in it is kept."""
        return self.path.startswith("etc/") and not self.plugin


def entries(folder: pathlib.Path, version: str) -> list[Entry]:
    """Return what a host gets, sorted by path.

    :param folder: ``dom0_plugins`` of a source tree or of an installation
    :param version: of the package, what RELEASE says
    :raises TreeUnfit: a link or a device in it, no plugins, or a strange version
    """
    if _VERSION.match(version) is None:
        raise TreeUnfit(f"{version!r} cannot be the version of a package")
    found = {entry.path: entry for entry in _own(folder)}
    if not any(entry.plugin for entry in found.values()):
        raise TreeUnfit(f"{folder} holds no plugins")
    found[RELEASE] = Entry(RELEASE, f"{version}\n".encode())
    for entry in list(found.values()):
        name = entry.path.removeprefix(f"{PLUGINS}/")
        if entry.plugin and entry.mode == 0o755 and not {"/", "."} & set(name):
            path = f"{entry.path}.py"
            if path in found:
                raise TreeUnfit(f"{path} is made by us, and is there already")
            found[path] = Entry(path, entry.content, twin_of=entry.path)
    return [found[path] for path in sorted(found)]


def plugin_names(laid: Sequence[Entry]) -> list[str]:
    """Return the plugins' names without ``.py``, sorted."""
    return [entry.twin_of.rpartition("/")[2] for entry in laid if entry.twin_of]


def units(laid: Sequence[Entry]) -> list[str]:
    """Return the names of systemd's units among the files, sorted."""
    folder = "usr/lib/systemd/system/"
    names = [entry.path.removeprefix(folder) for entry in laid if folder in entry.path]
    return [name for name in names if "/" not in name]


def _own(folder: pathlib.Path) -> Iterator[Entry]:
    for top in TOPS:
        for file in sorted((folder / top).rglob("*")):
            relative = file.relative_to(folder)
            if "__pycache__" in relative.parts or _UNWANTED.match(file.name):
                continue
            if file.is_symlink() or not (file.is_file() or file.is_dir()):
                raise TreeUnfit(f"{file} is neither a file nor a folder")
            if file.is_file():
                yield Entry(relative.as_posix(), file.read_bytes())
