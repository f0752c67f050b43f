# SPDX-License-Identifier: Apache-2.0
"""The filter language of get_all_records_where and get_all_where.

Grammar, loosest binding first: ``or``, ``and``, ``not``, parentheses, ``true``,
``false`` and ``=`` between two values; a value is a text in double quotes or ``field``
with a name in double quotes. In quotes a backslash stands before a quote or another
backslash. Words are in lower case.

Names are those of the database, not of records: a dot of the model is spelt ``__``
(``name__label``), where a record has one underscore. ``_ref`` is the reference.
Fields are compared as the texts that the database keeps; sets and maps are none.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.registry import Registry

Lookup = Callable[[str], str]
Value = tuple[bool, str]  # whether it is a field, and the name or text
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<sign>true|false|not|and|or|field|[()=])"
    r'|"(?P<text>(?:[^"\\]|\\["\\])*)"|(?P<end>$))'
)
_REF = "_ref"
_ESCAPE = re.compile(r"\\(.)")

# Fields of a record whose first underscore is a dot of the model; a pool's name and
# what PV drivers say of themselves are spelt with an underscore in the model too.
_DOTTED = re.compile(
    r"(name)_(label|description)"
    r"|(memory)_(overhead|target|(?:static|dynamic)_(?:min|max)|total|free|actual)"
    r"|(VCPUs)_(params|max|at_startup|number|utilisation|CPU|flags)"
    r"|(actions)_(after_\w+)"
    r"|(PV)_(bootloader|kernel|ramdisk|args|bootloader_args|legacy_args)"
    r"|(HVM)_(boot_policy|boot_params|shadow_multiplier)"
    r"|(API_version)_(major|minor|vendor|vendor_implementation)"
    r"|(qos)_(algorithm_type|algorithm_params|supported_algorithms)"
    r"|(io)_(read_kbs|write_kbs)"
)
_PLAIN = {("pool", "name_label"), ("pool", "name_description")}


@dataclass(frozen=True)
class Expression:
    """A test of an object.

    :ivar test: takes what looks up a field of the object
    :ivar names: fields that it asks for
    :ivar required: texts that fields must have in every object that passes
    """

    test: Callable[[Lookup], bool]
    names: frozenset[str] = frozenset()
    required: dict[str, str] = field(default_factory=dict)


class _Parser:
    """Recursive descent: or, and, not, atom."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0

    def _fail(self) -> Failure:
        return Failure("INVALID_VALUE", "expr", self._text)

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while True:
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._fail()
            at = match.end()
            if match["end"] is not None:
                yield ("end", "")
                return
            if match["sign"]:
                yield ("sign", match["sign"])
            else:
                yield ("text", _ESCAPE.sub(r"\1", match["text"]))

    def _take(self, sign: str) -> bool:
        if self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def parse(self) -> Expression:
        found = self._or()
        if self._tokens[self._at][0] != "end":
            raise self._fail()
        return found

    def _or(self) -> Expression:
        left = self._and()
        while self._take("or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Expression:
        left = self._not()
        while self._take("and"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Expression:
        if self._take("not"):
            inner = self._not()
            return Expression(lambda row: not inner.test(row), inner.names)
        if self._take("("):
            inside = self._or()
            if not self._take(")"):
                raise self._fail()
            return inside
        if self._take("true"):
            return Expression(lambda row: True)
        if self._take("false"):
            return Expression(lambda row: False)
        left = self._value()
        if not self._take("="):
            raise self._fail()
        return _equal(left, self._value())

    def _value(self) -> Value:
        is_field = self._take("field")
        kind, text = self._tokens[self._at]
        if kind != "text":
            raise self._fail()
        self._at += 1
        return is_field, text


def _equal(left: Value, right: Value) -> Expression:
    one, other = _reader(*left), _reader(*right)
    required = {}
    for (is_field, name), (is_other, text) in ((left, right), (right, left)):
        if is_field and not is_other:
            required[name] = text
    names = frozenset(name for is_field, name in (left, right) if is_field)
    return Expression(lambda row: one(row) == other(row), names, required)


def _reader(is_field: bool, text: str) -> Callable[[Lookup], str]:
    if is_field:
        return lambda row: row(text)
    return lambda row: text


def _either(left: Expression, right: Expression) -> Expression:
    names = left.names | right.names
    return Expression(lambda row: left.test(row) or right.test(row), names)


def _both(left: Expression, right: Expression) -> Expression:
    names = left.names | right.names
    required = {**right.required, **left.required}
    return Expression(lambda row: left.test(row) and right.test(row), names, required)


def column(cls: str, name: str) -> str:
    """Return the database's name of a record's field."""
    match = None if (cls, name) in _PLAIN else _DOTTED.fullmatch(name)
    if match is None:
        return name
    return "__".join(part for part in match.groups() if part is not None)


def as_text(name: str, value: Any) -> str:
    """Return a value as the text that the database compares.

    :raises Failure: INTERNAL_ERROR, a set or a map is no text
    """
    if isinstance(value, (list, dict)):
        kind = "Set" if isinstance(value, list) else "Pairs"
        raise internal_error(f'Failure("field {name} is a {kind}, no String")')
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.18g}"
    return str(value)


def missing(name: str) -> Failure:
    """Return the answer to a field that the table does not have."""
    return internal_error(f'Db_exn.DBCache_NotFound("missing field", "{name}", "")')


def compile_expression(text: str) -> Expression:
    """Return a test of an object.

    :raises Failure: INVALID_VALUE, the text is no expression
    """
    return _Parser(text).parse()


def search(db: Registry, cls: str, text: str) -> list[str]:
    """Return the references of the objects that an expression fits.

    :raises Failure: INVALID_VALUE, the text is no expression; INTERNAL_ERROR, it asks
        for a field that is not there, or for a set or a map
    """
    expression = compile_expression(text)
    names = {column(cls, name): name for name in db.schema.classes[cls].fields}

    def lookup_in(ref: str) -> Lookup:
        def lookup(name: str) -> str:
            if name == _REF:
                return ref
            if name not in names:
                raise missing(name)
            return as_text(name, db.value(cls, ref, names[name]))

        return lookup

    candidates = _candidates(db, cls, expression, names)
    return [ref for ref in candidates if expression.test(lookup_in(ref))]


def _candidates(
    db: Registry, cls: str, expression: Expression, names: dict[str, str]
) -> list[str]:
    """Return the objects that can pass; all where one of them may be an error."""
    fields = db.schema.classes[cls].fields
    known = {name: fields[names[name]].type for name in expression.names & set(names)}
    compound = any(type_.kind in ("set", "map") for type_ in known.values())
    if compound or expression.names - set(names) - {_REF}:
        return db.refs(cls)
    wanted = {
        names[name]: text
        for name, text in expression.required.items()
        if name in known and known[name].kind in ("string", "ref")
    }
    return db.find(cls, **wanted) if wanted else db.refs(cls)
