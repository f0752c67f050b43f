# SPDX-License-Identifier: Apache-2.0
"""The file that says what the simulated pools hold at their start.

YAML; every key may be left out. Either ``pools`` is a list of pools, or the keys of one
pool stand at the top. What the file does not name is as on freshly installed hosts::

    pools:
      - name: lab
        hosts: 3                    # a number, or a list of:
          # - {name: big-01, memory: 256 GiB, cpus: 32}
        networks:
          - {name: storage, vlan: 7, device: eth0, mtu: 9000}
          - {name: integration, bridge: br-int, managed: false}
        srs:
          - {name: shared, type: nfs, size: 2 TiB, default: true}
          - {name: fast, type: ext, size: 400 GiB, host: big-01}
        templates:
          - {name: small, memory: 1 GiB, vcpus: 1, disk: 8 GiB, firmware: uefi}
        vms:
          - {name: web, count: 20, state: running, template: small}
          - name: db
            memory: 4 GiB
            vcpus: 2
            state: halted           # halted, running, paused, suspended
            host: big-01
            disks: [20 GiB, {size: 100 GiB, sr: fast}]
            networks: [Pool-wide network 0, storage]
            other_config: {owner: somebody}

Sizes are bytes, or a number with KiB, MiB, GiB or TiB. Of several VMs of one ``count``
the names get a number: ``web-1``, ``web-2``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]iB)?")
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
GIB = _UNITS["GiB"]
STATES = ("halted", "running", "paused", "suspended")
SR_TYPES = ("ext", "nfs", "lvm", "iso")
FIRMWARES = ("bios", "uefi")

Reader = Callable[[str, Any], Any]


class InventoryRefused(Exception):
    """The file cannot be used; one sentence that names the key."""


@dataclass(frozen=True)
class HostPlan:
    """A host; None: as it is installed. Memory in bytes."""

    name: str | None = None
    memory: int | None = None
    cpus: int | None = None


@dataclass(frozen=True)
class NetworkPlan:
    """A network; with a VLAN it is on ``device`` of all hosts."""

    name: str
    description: str = ""
    bridge: str = ""
    managed: bool = True
    mtu: int = 1500
    vlan: int | None = None
    device: str = "eth0"


@dataclass(frozen=True)
class SrPlan:
    """A storage repository; without ``host`` a local one is on the first."""

    name: str
    type: str = "nfs"
    description: str = ""
    size: int = 100 * GIB
    host: str = ""
    default: bool = False
    device_config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TemplatePlan:
    """A template beside those of a fresh host; ``disk`` 0: it asks for none."""

    name: str
    description: str = ""
    memory: int = GIB
    vcpus: int = 1
    disk: int = 0
    firmware: str = "bios"


@dataclass(frozen=True)
class DiskPlan:
    """A disk of a VM; ``sr`` "": on the pool's default SR."""

    size: int
    sr: str = ""


@dataclass(frozen=True)
class VmPlan:
    """One VM or several; None: as the template says, or 1 GiB and one processor."""

    name: str
    count: int | None = None
    description: str = ""
    template: str = ""
    memory: int | None = None
    vcpus: int | None = None
    state: str = "halted"
    host: str = ""
    disks: tuple[DiskPlan, ...] = ()
    networks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    other_config: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of the VMs."""
        if self.count is None:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]


@dataclass(frozen=True)
class PoolPlan:
    """A pool; () hosts: as many as the command line says."""

    name: str = ""
    description: str = ""
    hosts: tuple[HostPlan, ...] = ()
    networks: tuple[NetworkPlan, ...] = ()
    srs: tuple[SrPlan, ...] = ()
    templates: tuple[TemplatePlan, ...] = ()
    vms: tuple[VmPlan, ...] = ()


# Readers of values; each gets the key as it stands in the file, such as "vms[2].memory"


def _text(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InventoryRefused(f"{where} must be a text.")
    return str(value)


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InventoryRefused(f"{where} must be true or false, not {value!r}.")
    return value


def _number(low: int, high: int) -> Reader:
    def read(where: str, value: Any) -> int:
        right = isinstance(value, int) and not isinstance(value, bool)
        if not right or not low <= value <= high:
            text = f"{where} must be a number from {low} to {high}, not {value!r}."
            raise InventoryRefused(text)
        return int(value)

    return read


def _size(where: str, value: Any) -> int:
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
    if match is None:
        raise InventoryRefused(
            f"{where} must be bytes or a number with KiB, MiB, GiB or TiB,"
            f" not {value!r}."
        )
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _one_of(known: tuple[str, ...]) -> Reader:
    def read(where: str, value: Any) -> str:
        if str(value).lower() not in known:
            text = f"{where} must be one of {', '.join(known)}, not {value!r}."
            raise InventoryRefused(text)
        return str(value).lower()

    return read


def _texts(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InventoryRefused(f"{where} must be a map of texts.")
    return {
        _text(f"{where}, its key", key): _text(f"{where}.{key}", item)
        for key, item in value.items()
    }


def _list_of(read: Reader) -> Reader:
    def read_all(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise InventoryRefused(f"{where} must be a list.")
        return tuple(read(f"{where}[{at}]", item) for at, item in enumerate(value))

    return read_all


def _plan(kind: Callable[..., Any], readers: dict[str, Reader], *needed: str) -> Reader:
    def read(where: str, value: Any) -> Any:
        if not isinstance(value, dict):
            raise InventoryRefused(f"{where} must be a map of {', '.join(readers)}.")
        for key in value:
            if key not in readers:
                names = ", ".join(readers)
                text = f"{_join(where, key)} is no key; known here are {names}."
                raise InventoryRefused(text)
        for key in needed:
            if key not in value:
                raise InventoryRefused(f"{_join(where, key)} is missing.")
        return kind(**{k: readers[k](_join(where, k), v) for k, v in value.items()})

    return read


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


_HOST = _plan(HostPlan, {"name": _text, "memory": _size, "cpus": _number(1, 4096)})
_NETWORK = _plan(
    NetworkPlan,
    {
        "name": _text,
        "description": _text,
        "bridge": _text,
        "managed": _flag,
        "mtu": _number(68, 65535),
        "vlan": _number(0, 4094),
        "device": _text,
    },
    "name",
)
_SR = _plan(
    SrPlan,
    {
        "name": _text,
        "type": _one_of(SR_TYPES),
        "description": _text,
        "size": _size,
        "host": _text,
        "default": _flag,
        "device_config": _texts,
    },
    "name",
)
_TEMPLATE = _plan(
    TemplatePlan,
    {
        "name": _text,
        "description": _text,
        "memory": _size,
        "vcpus": _number(1, 64),
        "disk": _size,
        "firmware": _one_of(FIRMWARES),
    },
    "name",
)
_DISK = _plan(DiskPlan, {"size": _size, "sr": _text}, "size")


def _disk(where: str, value: Any) -> DiskPlan:
    if isinstance(value, dict):
        return _DISK(where, value)
    return DiskPlan(_size(where, value))


def _hosts(where: str, value: Any) -> tuple[HostPlan, ...]:
    if isinstance(value, list) and value:
        return _list_of(_HOST)(where, value)
    return (HostPlan(),) * _number(1, 1000)(where, value)


_VM = _plan(
    VmPlan,
    {
        "name": _text,
        "count": _number(0, 100_000),
        "description": _text,
        "template": _text,
        "memory": _size,
        "vcpus": _number(1, 64),
        "state": _one_of(STATES),
        "host": _text,
        "disks": _list_of(_disk),
        "networks": _list_of(_text),
        "tags": _list_of(_text),
        "other_config": _texts,
    },
    "name",
)
_POOL = _plan(
    PoolPlan,
    {
        "name": _text,
        "description": _text,
        "hosts": _hosts,
        "networks": _list_of(_NETWORK),
        "srs": _list_of(_SR),
        "templates": _list_of(_TEMPLATE),
        "vms": _list_of(_VM),
    },
)


def read(path: Path) -> tuple[PoolPlan, ...]:
    """Return the pools that a file describes.

    :raises InventoryRefused: it is not there, is no YAML, or a key is wrong
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InventoryRefused(f"{path}: {exc.strerror}.") from None
    except (yaml.YAMLError, ValueError) as exc:
        # ValueError: bytes that are no UTF-8, or a date that no calendar has.
        place = getattr(exc, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise InventoryRefused(f"{path}: this is no YAML{line}.") from None
    try:
        return parse(content)
    except InventoryRefused as exc:
        raise InventoryRefused(f"{path}: {exc}") from None


def parse(content: Any) -> tuple[PoolPlan, ...]:
    """Return the pools that a document describes.

    :raises InventoryRefused: a key is wrong
    """
    if content is None:
        return ()
    if not isinstance(content, dict):
        raise InventoryRefused("The file must hold a map of keys, such as pools.")
    if "pools" not in content:
        return (_POOL("", content),)
    for key in content:
        if key != "pools":
            text = f"{key} must stand in one of the pools, as there are pools."
            raise InventoryRefused(text)
    return _list_of(_POOL)("pools", content["pools"])


def with_counts(
    plans: tuple[PoolPlan, ...], pools: int, hosts: int
) -> tuple[PoolPlan, ...]:
    """Add fresh pools up to a number, and hosts where a plan names none."""
    missing = max(0, pools - len(plans))
    filled = []
    for plan in (*plans, *(PoolPlan(),) * missing):
        one = plan.hosts or (HostPlan(),) * hosts
        filled.append(PoolPlan(**{**plan.__dict__, "hosts": one}))
    return tuple(filled)
