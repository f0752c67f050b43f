# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a program can check, over every module's ``ast``.

``ROOMS`` is the one table of who may import whom; the design behind it is in
``doc/source/contributor/architecture.rst``.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "xenapi_driver"

MODULE_LINES = 600
FUNCTION_LINES = 60
PARAMETERS = 6

LEAVES = {"conf", "exceptions", "flow", "migrate_data"}
BELOW_STEPS = {"images", "xapi", "formats"}
BELOW_OPS = BELOW_STEPS | {"steps", "exceptions", "flow", "migrate_data"}
DOORS = BELOW_OPS | {"ops", "conf"}

# A room and the other rooms of the package that its modules may import.
ROOMS = {
    "cmd": DOORS | {"sim", "dom0"},
    "dom0": set(),
    "driver": DOORS,
    "neutron": DOORS,
    "console_relay": DOORS,
    "ops": BELOW_OPS | {"conf"},
    "steps": BELOW_STEPS | {"exceptions", "flow", "migrate_data"},
    "images": {"xapi", "formats", "exceptions", "flow", "migrate_data"},
    "xapi": {"formats"},
    "formats": set(),
    "sim": set(),
    "nova_finder": set(),
    **{leaf: set() for leaf in LEAVES},
}
WITHOUT_NOVA = {"xapi", "formats", "flow", "sim", "conf", "dom0"}
# Nova's contract names the driver module; a subject names every other one.
NO_SUBJECT = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
# Shared with the host by name, and so not ours to choose.
SCRIPTS = {
    path.name
    for path in (ROOT / "dom0_plugins").rglob("*")
    if path.is_file()
    and not path.suffix
    and path.read_bytes().startswith(b"#!/usr/bin/python3")
}


@dataclasses.dataclass(frozen=True)
class Module:
    """One file: its dotted name, its syntax tree and its number of lines."""

    path: pathlib.Path
    name: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        """The part of the package that it belongs to."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def _read(path: pathlib.Path) -> Module:
    text = path.read_text()
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return Module(
        path=path,
        name=dotted.removesuffix(".__init__"),
        tree=ast.parse(text, str(path)),
        lines=text.count("\n"),
    )


@functools.cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Every Python file below the folders, the plugins without suffix too."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix == ".py" or (path.is_file() and path.name in SCRIPTS):
                found.append(_read(path))
    return tuple(found)


def package() -> tuple[Module, ...]:
    return modules(PACKAGE)


def everything() -> tuple[Module, ...]:
    return modules(PACKAGE, "shim", "dom0_plugins", "demo", "bench")


def _imports(module: Module) -> set[str]:
    """Return the dotted names that a module imports, ``from a import b`` as a.b."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package_parts = module.name.split(".")
            if module.path.name != "__init__.py":
                package_parts = package_parts[:-1]
            above = package_parts[: len(package_parts) + 1 - node.level]
            origin = ".".join((above if node.level else []) + [node.module or ""])
            origin = origin.strip(".")
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found


def _imported_tops(module: Module) -> set[str]:
    return {name.split(".")[0] for name in _imports(module)}


def _functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(module.tree) if isinstance(node, kinds)]


def test_every_room_is_in_the_table():
    rooms = {module.room for module in package()} - {""}
    assert rooms <= set(ROOMS), "a new room needs a line in ROOMS"


def test_imports_point_one_way():
    wrong = []
    for module in package():
        for name in _imports(module):
            parts = name.split(".")
            if parts[0] != PACKAGE or len(parts) == 1:
                continue
            allowed = ROOMS.get(module.room, set()) | {module.room}
            if parts[1] not in allowed:
                wrong.append(f"{module} imports {name}")
    assert not wrong, wrong


def test_ops_do_not_import_each_other():
    wrong = [
        f"{module} imports {name}"
        for module in package()
        if module.room == "ops" and module.path.name != "__init__.py"
        for name in _imports(module)
        if name.startswith(f"{PACKAGE}.ops")
    ]
    assert not wrong, wrong


def test_no_import_cycles():
    known = {module.name for module in package()}
    arrows: dict[str, set[str]] = {}
    for module in package():
        targets = set()
        for name in _imports(module):
            # from package import name: the name may be a module or a thing in it
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target != module.name:
                targets.add(target)
        arrows[module.name] = targets
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert free, f"import cycle among {sorted(arrows)}"
        arrows = {name: arrows[name] for name in arrows if name not in free}


def test_no_nova_where_it_is_forbidden():
    wrong = [
        str(module)
        for module in package()
        if module.room in WITHOUT_NOVA and "nova" in _imported_tops(module)
    ]
    assert not wrong, wrong


def test_the_simulator_and_the_plugins_know_nothing_of_the_package():
    wrong = [
        str(module)
        for module in modules(f"{PACKAGE}/sim", "dom0_plugins")
        for name in _imports(module)
        if name.startswith(PACKAGE) and not name.startswith(f"{PACKAGE}.sim")
    ]
    wrong += [str(m) for m in package() if "xenapi_dom0" in _imported_tops(m)]
    assert not wrong, wrong


def test_nothing_imports_eventlet():
    wrong = [str(m) for m in everything() if "eventlet" in _imported_tops(m)]
    assert not wrong, wrong


def test_no_import_inside_a_function():
    wrong = [
        f"{module}:{node.lineno}"
        for module in everything()
        for function in _functions(module)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not wrong, wrong


def test_modules_are_named_by_their_subject():
    wrong = [str(m) for m in everything() if m.path.stem in NO_SUBJECT - SCRIPTS]
    assert not wrong, wrong


@pytest.mark.parametrize("module", everything(), ids=str)
def test_ceilings(module):
    assert module.lines <= MODULE_LINES
    for function in _functions(module):
        where = f"{module}:{function.lineno} {function.name}"
        size = (function.end_lineno or 0) - function.lineno + 1
        assert size <= FUNCTION_LINES, f"{where} has {size} lines"
        args = function.args
        names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        if not _given_by_contract(module, function):
            assert len(names) <= PARAMETERS, f"{where} takes {len(names)}"


def _given_by_contract(module: Module, function: ast.AST) -> bool:
    """Tell whether Nova chose the parameters: the driver's public methods."""
    return module.name == f"{PACKAGE}.driver" and not function.name.startswith("_")


def test_plugins_parse_as_python_3_6():
    for module in modules("dom0_plugins"):
        ast.parse(module.path.read_text(), str(module), feature_version=(3, 6))


def test_every_module_names_its_licence():
    wrong = [
        str(module)
        for module in everything()
        if "SPDX-License-Identifier: Apache-2.0"
        not in "\n".join(module.path.read_text().splitlines()[:3])
    ]
    assert not wrong, wrong
