# SPDX-License-Identifier: Apache-2.0
"""The data model of the simulated host, read from ``schema.json``.

The file holds facts of the published XAPI data model, one line a field or message:

* field: ``[type, qualifier, default, flag]``; qualifier RW, S (constructor argument
  only) or D (set by the host only); flag ``internal`` (not on the wire) or
  ``removed`` (in records still, its getter refuses);
* message: its parameters as ``[name, type, default]``, result, async; ``internal``
  ones are for the hosts of a pool among themselves, ``removed`` ones only refuse;
* class: whether its objects are ``stored`` and make ``events``, and whether the model
  derives a ``constructor``.

Messages that follow from class and fields (``get_record``, getters, setters) are not
in the file; ``without`` names those that a class lacks.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.failure import internal_error

NULL = "OpaqueRef:NULL"
EPOCH = Timestamp("19700101T00:00:00Z")
_MISSING = object()
_DATETIME = re.compile(
    r"\d{4}-?\d\d-?\d\d(?:[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_INT64 = re.compile("([+-]?)(0[xXoObB]|)([0-9a-fA-F][0-9a-fA-F_]*)")
_BASES = {"": 10, "0x": 16, "0o": 8, "0b": 2}
_SPLIT = re.compile(r"^(set|map|option)\((.*)\)$")


@dataclass(frozen=True)
class Type:
    """A type of the model: kind, and what it is made of.

    :ivar kind: string, int, float, bool, datetime, void, enum, ref, record, set,
        map or option
    :ivar name: class or enum name
    :ivar inner: element types of set, map and option
    """

    kind: str
    name: str = ""
    inner: tuple["Type", ...] = ()
    values: tuple[str, ...] = ()


VOID = Type("void")


@dataclass(frozen=True)
class Field:
    """A field of a class."""

    name: str
    type: Type
    qualifier: str
    default: Any = _MISSING
    flag: str = ""

    @property
    def has_default(self) -> bool:
        """Whether the model names a value to start with."""
        return self.default is not _MISSING and self.default is not None

    @property
    def required(self) -> bool:
        """Whether a constructor call must carry the field."""
        return self.qualifier != "D" and not self.has_default

    def initial(self) -> Any:
        """Return a fresh default value."""
        if not self.has_default:
            return zero(self.type)
        if isinstance(self.default, (list, dict)):
            return self.default.copy()
        if self.type.kind == "datetime":
            return Timestamp(self.default)
        if self.type.kind == "float":
            return float(self.default)
        return self.default


@dataclass(frozen=True)
class Param:
    """A parameter of a message."""

    name: str
    type: Type
    default: Any = _MISSING

    @property
    def optional(self) -> bool:
        """Whether a caller may leave it out."""
        return self.default is not _MISSING


@dataclass(frozen=True)
class Message:
    """A message: what a caller may send.

    :ivar kind: custom, or the rule that derived it (getter, setter, get_all ...)
    :ivar field: the field that a derived message is about
    :ivar internal: only for sessions between the hosts of a pool
    """

    cls: str
    name: str
    kind: str
    params: tuple[Param, ...] = ()
    field: str = ""
    can_async: bool = False
    needs_session: bool = True
    removed: bool = False
    internal: bool = False
    result: Type = VOID

    @property
    def wire_name(self) -> str:
        """Return the name on the wire, such as ``VM.start``."""
        return f"{self.cls}.{self.name}"


@dataclass
class ClassModel:
    """A class: fields and messages by name."""

    name: str
    events: bool
    stored: bool
    fields: dict[str, Field]
    constructor: bool = False
    removed: bool = False
    messages: dict[str, Message] = field(default_factory=dict)


@dataclass
class Schema:
    """The whole model. ``relations`` pairs (one side, many side) of class and field."""

    classes: dict[str, ClassModel]
    relations: list[tuple[tuple[str, str], tuple[str, str]]]

    def message(self, wire_name: str) -> Message | None:
        """Return the message of that wire name, in its old spelling too."""
        cls, dot, name = wire_name.partition(".")
        if not dot:
            cls, name = self._old_spelling(wire_name)
        model = self.classes.get(cls)
        return model.messages.get(name) if model else None

    def _old_spelling(self, wire_name: str) -> tuple[str, str]:
        """Split ``Class_message``; class names may hold an underscore themselves."""
        for cls in sorted(self.classes, key=len, reverse=True):
            if wire_name.startswith(cls + "_"):
                return cls, wire_name[len(cls) + 1 :]
        return wire_name, ""


def parse_type(text: str, enums: dict[str, list[str]]) -> Type:
    """Return the :class:`Type` that ``text`` spells."""
    match = _SPLIT.match(text)
    if match is None:
        kind, _, name = text.partition(" ")
        kind = "string" if kind == "secret-string" else kind
        return Type(kind, name, (), tuple(enums.get(name, ())))
    kind, body = match.groups()
    if kind == "map":
        key, value = _split_pair(body)
        return Type("map", "", (parse_type(key, enums), parse_type(value, enums)))
    return Type(kind, "", (parse_type(body, enums),))


def _split_pair(body: str) -> tuple[str, str]:
    depth = 0
    for index, char in enumerate(body):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            return body[:index], body[index + 1 :]
    raise ValueError(f"not a map type: {body}")


def zero(type_: Type) -> Any:
    """Return the empty value of a type."""
    simple: dict[str, Any] = {
        "string": "",
        "int": 0,
        "float": 0.0,
        "bool": False,
        "datetime": EPOCH,
        "ref": NULL,
        "void": "",
    }
    if type_.kind == "set":
        return []
    if type_.kind in ("map", "record"):
        return {}
    if type_.kind == "enum":
        return type_.values[0]
    return simple.get(type_.kind)


def rpc_text(value: Any) -> str:
    """Spell a value as XAPI's error texts do, such as ``I(5)``."""
    if value is None:
        return "N"
    if isinstance(value, bool):
        return f"B({str(value).lower()})"
    if isinstance(value, int):
        return f"I({value})"
    if isinstance(value, float):
        return f"F({value:g})"
    if isinstance(value, list):
        return "[" + ";".join(rpc_text(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{key}:{rpc_text(item)}" for key, item in value.items())
        return "{" + ";".join(pairs) + "}"
    return f"S({value})"


def _expected(what: str, value: Any) -> Exception:
    return internal_error(f"Failure(\"Expected {what}, got '{rpc_text(value)}'\")")


def convert(type_: Type, value: Any) -> Any:
    """Return ``value`` off the wire as the model's type.

    :raises Failure: INTERNAL_ERROR with the text that XAPI gives
    """
    if type_.kind in ("string", "ref"):
        if not isinstance(value, str):
            raise _expected("string", value)
        return value
    if type_.kind in ("int", "float"):
        return _number(type_.kind, value)
    if type_.kind == "bool":
        if not isinstance(value, bool):
            raise _expected("bool", value)
        return value
    if type_.kind == "datetime":
        if not isinstance(value, str):
            raise _expected("datetime", value)
        if not _DATETIME.fullmatch(value):
            raise internal_error(f'Invalid_argument("Unable to parse date: {value}")')
        return Timestamp(value)
    if type_.kind == "enum":
        return _enum(type_, value)
    return _compound(type_, value)


def _number(kind: str, value: Any) -> int | float:
    if isinstance(value, str):
        return _int64(value) if kind == "int" else _float(value)
    wanted = (int,) if kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise _expected("int64" if kind == "int" else "float", value)
    return int(value) if kind == "int" else float(value)


def _int64(text: str) -> int:
    """Read an int as OCaml does: 64 bits, no blanks, other bases by their prefix."""
    match = _INT64.fullmatch(text)
    if match is None:
        raise internal_error('Failure("Int64.of_string")')
    sign, base, digits = match.groups()
    try:
        number = int(digits.replace("_", ""), _BASES[base.lower()])
    except ValueError:
        raise internal_error('Failure("Int64.of_string")') from None
    # Numbers in another base may use all bits, and wrap around.
    most = (1 << 64) - 1 if base else (1 << 63) - (sign != "-")
    if number > most:
        raise internal_error('Failure("Int64.of_string")')
    number = -number if sign == "-" else number
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _float(text: str) -> float:
    try:
        return float(text if text == text.strip() else "blank")
    except ValueError:
        raise internal_error('Failure("float_of_string")') from None


def _enum(type_: Type, value: Any) -> str:
    if not isinstance(value, str):
        raise _expected("string", value)
    for known in type_.values:
        if known.lower() == value.lower():
            return known
    raise internal_error('Failure("Unknown tag/contents")')


def _compound(type_: Type, value: Any) -> Any:
    if type_.kind == "option":
        return None if value is None else convert(type_.inner[0], value)
    if type_.kind == "set":
        if not isinstance(value, list):
            text = f"Expecting Rpc.Enum, but found '{rpc_text(value)}'"
            raise internal_error(f'Failure("{text}")')
        return [convert(type_.inner[0], item) for item in value]
    if not isinstance(value, dict):
        text = f"Expecting Rpc.Dict, but found '{rpc_text(value)}'"
        raise internal_error(f'Failure("{text}")')
    if type_.kind == "record":
        return value
    key, item = type_.inner
    return {str(convert(key, k)): convert(item, v) for k, v in value.items()}


def _object_messages(model: ClassModel) -> Iterator[Message]:
    """Yield what every class has whose objects are kept."""
    text, this = Type("string"), Param("self", Type("ref", model.name))
    shapes: dict[str, tuple[Param, ...]] = {
        "get_record": (this,),
        "get_by_uuid": (Param("uuid", text),),
        "get_all": (),
        "get_all_records": (),
        "get_all_where": (Param("expr", text),),
        "get_all_records_where": (Param("expr", text),),
    }
    if "name_label" in model.fields:
        shapes["get_by_name_label"] = (Param("label", text),)
    if model.constructor:
        shapes["create"] = (Param("args", Type("record", model.name)),)
        shapes["destroy"] = (this,)
    for name, params in shapes.items():
        yield Message(
            model.name,
            name,
            name,
            params,
            can_async=name in ("create", "destroy"),
            removed=model.removed,
            result=_object_result(model.name, name),
        )


def _object_result(cls: str, name: str) -> Type:
    ref = Type("ref", cls)
    results = {
        "get_record": Type("record", cls),
        "get_by_uuid": ref,
        "create": ref,
        "destroy": VOID,
        "get_all_records": Type("map", "", (ref, Type("record", cls))),
    }
    results["get_all_records_where"] = results["get_all_records"]
    return results.get(name, Type("set", "", (ref,)))


def _field_messages(cls: str, about: Field) -> Iterator[Message]:
    """Yield getter and, where callers may write, setters of a field."""
    this = Param("self", Type("ref", cls))
    shapes: list[tuple[str, str, tuple[Param, ...]]] = [("get_", "getter", ())]
    if about.qualifier == "RW":
        shapes.append(("set_", "setter", (Param("value", about.type),)))
        inner = about.type.inner
        if about.type.kind == "set":
            item = (Param("value", inner[0]),)
            shapes += [("add_", "add", item), ("remove_", "remove", item)]
        if about.type.kind == "map":
            key, value = Param("key", inner[0]), Param("value", inner[1])
            shapes.append(("add_to_", "add_to", (key, value)))
            shapes.append(("remove_from_", "remove_from", (key,)))
    for prefix, kind, more in shapes:
        yield Message(
            cls,
            prefix + about.name,
            kind,
            (this, *more),
            field=about.name,
            removed=about.flag == "removed",
            result=about.type if kind == "getter" else VOID,
        )


def _derived(model: ClassModel, without: list[str]) -> Iterator[Message]:
    """Yield the messages that follow from class and fields."""
    if not model.stored:
        return
    for message in _object_messages(model):
        if message.name not in without:
            yield message
    for about in model.fields.values():
        if about.flag != "internal":
            yield from _field_messages(model.name, about)


def _custom(cls: str, name: str, facts: dict[str, Any], enums: Any) -> Message:
    params = tuple(
        Param(entry[0], parse_type(entry[1], enums), *entry[2:])
        for entry in facts["params"]
    )
    return Message(
        cls,
        name,
        "custom",
        params,
        can_async=facts.get("async", False),
        needs_session=facts.get("session", True),
        removed=facts.get("removed", False),
        internal=facts.get("internal", False),
        result=parse_type(facts.get("result", "void"), enums),
    )


@lru_cache(maxsize=1)
def load() -> Schema:
    """Return the model. It is read once in a process; nothing changes it."""
    path = Path(__file__).with_name("schema.json")
    raw = json.loads(path.read_text(encoding="utf-8"))
    enums = raw["enums"]
    classes = {}
    for cls, facts in raw["classes"].items():
        fields = {
            name: Field(name, parse_type(entry[0], enums), *entry[1:])
            for name, entry in facts["fields"].items()
        }
        model = ClassModel(
            cls,
            facts["events"],
            facts["stored"],
            fields,
            constructor=facts.get("constructor", False),
            removed=facts.get("removed", False),
        )
        for message in _derived(model, facts.get("without", [])):
            model.messages[message.name] = message
        for name, entry in facts["messages"].items():
            model.messages[name] = _custom(cls, name, entry, enums)
        classes[cls] = model
    relations = []
    for one, many in raw["relations"]:
        left, right = one.split("."), many.split(".")
        relations.append(((left[0], left[1]), (right[0], right[1])))
    return Schema(classes, relations)
