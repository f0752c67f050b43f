# SPDX-License-Identifier: Apache-2.0
"""The filter language of get_all_records_where and get_all_where.

Grammar: ``true``, ``false``, ``not``, ``and``, ``or``, parentheses, and ``=`` between
``field "name"`` and a quoted text, on either side. A flattened dot is spelt ``__``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenapi_driver.sim.failure import Failure

Record = Mapping[str, Any]
Predicate = Callable[[Record], bool]


@dataclass(frozen=True)
class Expression:
    """A test of a record.

    :ivar required: texts that fields must have in every record that passes
    """

    test: Predicate
    required: dict[str, str] = field(default_factory=dict)

    def __call__(self, record: Record) -> bool:
        return self.test(record)


_TOKEN = re.compile(
    r"\s*(?:(?P<word>true|false|not|and|or|field)\b|(?P<sign>[()=])"
    r"|\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>(?:[^'\\]|\\.)*)')",
    re.IGNORECASE,
)


class _Parser:
    """Recursive descent: or, and, not, atom."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split(text))
        self._at = 0

    def _fail(self) -> Failure:
        return Failure("INVALID_VALUE", "expr", self._text)

    def _split(self, text: str) -> Any:
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._fail()
            at = match.end()
            if match["word"] or match["sign"]:
                yield ("sign", (match["word"] or match["sign"]).lower())
            else:
                body = match["double"] if match["double"] is not None else None
                body = match["single"] if body is None else body
                yield ("text", re.sub(r"\\(.)", r"\1", body))

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, sign: str) -> bool:
        if self._peek() == ("sign", sign):
            self._at += 1
            return True
        return False

    def parse(self) -> Expression:
        found = self._or()
        if self._peek()[0] != "end":
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
            return Expression(lambda record: not inner(record))
        if self._take("("):
            inside = self._or()
            if not self._take(")"):
                raise self._fail()
            return inside
        if self._take("true"):
            return Expression(lambda record: True)
        if self._take("false"):
            return Expression(lambda record: False)
        left = self._operand()
        if not self._take("="):
            raise self._fail()
        return _equal(left, self._operand())

    def _operand(self) -> tuple[bool, str]:
        """Return whether it is a field, and the name or text."""
        is_field = self._take("field")
        kind, text = self._peek()
        if kind != "text":
            raise self._fail()
        self._at += 1
        return is_field, text


def _equal(left: tuple[bool, str], right: tuple[bool, str]) -> Expression:
    one, other = _reader(*left), _reader(*right)
    required = {}
    for (is_field, name), (is_other, text) in ((left, right), (right, left)):
        if is_field and not is_other:
            required[_plain(name)] = text
    return Expression(lambda record: one(record) == other(record), required)


def _reader(is_field: bool, text: str) -> Callable[[Record], str]:
    if not is_field:
        return lambda record: text
    return lambda record: _field_text(record, text)


def _either(left: Expression, right: Expression) -> Expression:
    return Expression(lambda record: left(record) or right(record))


def _both(left: Expression, right: Expression) -> Expression:
    required = {**right.required, **left.required}
    return Expression(lambda record: left(record) and right(record), required)


def _plain(name: str) -> str:
    return name.replace("__", "_")


def _field_text(record: Record, name: str) -> str:
    """Return a field as the text that the database compares."""
    plain = _plain(name)
    if plain not in record:
        text = f'Db_exn.DBCache_NotFound("missing field", "", "{name}")'
        raise Failure("INTERNAL_ERROR", text)
    value = record[plain]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def compile_expression(text: str) -> Expression:
    """Return a test of a record.

    :raises Failure: INVALID_VALUE, the text is no expression
    """
    return _Parser(text).parse()
