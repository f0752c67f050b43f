# SPDX-License-Identifier: Apache-2.0
"""From a method name and arguments to a result, in XAPI's order of checks.

Name, number of arguments, session, types, the object itself; then the handler that a
class registered, or the generic one that the message's kind stands for.
"""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from xenapi_driver.sim import absent, sessions, tasks
from xenapi_driver.sim.expression import search
from xenapi_driver.sim.failure import Failure, handle_invalid, internal_error
from xenapi_driver.sim.messages import HANDLERS, Call, Handler, Place
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import ClassModel, Message, Schema, Type, convert
from xenapi_driver.sim.world import World

HERE = Place()
_POLL = "event.from"
_TEXT = Type("string")
_SETTERS = {
    "add_to_": "add_to",
    "remove_from_": "remove_from",
    "set_": "setter",
    "add_": "add",
    "remove_": "remove",
}


class Requests:
    """Calls counted by wire name; polls for events apart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.polls = 0

    def note(self, method: str) -> None:
        """Count one call."""
        with self._lock:
            if method == _POLL:
                self.polls += 1
            else:
                self._counts[method] += 1

    @property
    def by_method(self) -> dict[str, int]:
        """Return the counts by wire name."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        """Return the number of calls, polls for events left out."""
        return sum(self.by_method.values())

    def reset(self) -> None:
        """Count from nothing."""
        with self._lock:
            self._counts.clear()
            self.polls = 0


class Dispatcher:
    """Carries out calls on one world."""

    def __init__(self, world: World, requests: Requests | None = None) -> None:
        self._world = world
        self._schema = world.db.schema
        self._derived: dict[str, Handler] = {}
        self.requests = requests or Requests()

    def execute(self, method: str, params: list[Any], place: Place = HERE) -> Any:
        """Carry out one call as it came off the wire.

        :raises Failure: what the host answers
        """
        self.requests.note(method)
        prefix, name = _strip_async(method)
        if name == "system.listMethods":
            return self.list_methods()
        if name.startswith("system.isAlive:"):
            return params[0] if params else ""
        message = self._schema.message(name)
        if message is None:
            raise Failure("MESSAGE_METHOD_UNKNOWN", name)
        if prefix and not message.can_async:
            text = f"No async mode for this operation (rpc: {name})"
            raise Failure("Fault", text)
        session, rest = self._session(message, params)
        arguments = _arguments(message, rest)
        if message.kind == "create":
            model = self._schema.classes[message.cls]
            arguments = [_constructor_record(model, arguments[0])]
        call = Call(self._world, message.wire_name, session, place=place)
        if not prefix:
            return self._run(call, message, arguments)
        late = self._world.faults.before(method, call, arguments)
        ref = tasks.start(call, method, lambda c: self._run(c, message, arguments))
        if late:
            late()
        return ref

    def list_methods(self) -> list[str]:
        """Return the wire names of all messages that can be called."""
        return [
            message.wire_name
            for model in self._schema.classes.values()
            for message in model.messages.values()
        ]

    def _session(self, message: Message, params: list[Any]) -> tuple[str, list[Any]]:
        """Split off the session and check it; return it and the other arguments."""
        if not message.needs_session:
            return "", params
        if not params:
            wanted = sum(not param.optional for param in message.params)
            raise _count_mismatch(message, wanted, -1)
        _check_count(message, params[1:])
        session = params[0]
        if not isinstance(session, str):
            convert(_TEXT, session)
        with self._world.db.changed:
            row = sessions.use(self._world, session)
            if message.internal and not row["pool"]:
                text = f'Internal API "{message.wire_name}" call attempted with'
                raise internal_error(f"{text} non-pool (external) session")
        return session, params[1:]

    def _run(self, call: Call, message: Message, arguments: list[Any]) -> Any:
        """Run the message's handler, faults included."""
        late = self._world.faults.before(message.wire_name, call, arguments)
        handler = HANDLERS.get(message.wire_name)
        if message.removed:
            raise Failure("MESSAGE_REMOVED")
        if handler is None:
            handler = self._derived_handler(message)
        if handler.blocking:
            with self._world.db.changed:
                _check_object(call.db, message, arguments, handler)
                forwarding.require_reachable(call, arguments)
            value = handler.function(call, *arguments)
        else:
            with self._world.db.changed:
                _check_object(call.db, message, arguments, handler)
                forwarding.require_reachable(call, arguments)
                value = handler.function(call, *arguments)
        if late:
            late()
        return "" if value is None else value

    def _derived_handler(self, message: Message) -> Handler:
        """Return what the message's kind stands for; made at its first call."""
        handler = self._derived.get(message.wire_name)
        if handler is None:
            handler = _generic(self._schema, message)
            self._derived[message.wire_name] = handler
        return handler


def _strip_async(method: str) -> tuple[str, str]:
    for prefix in ("Async.", "InternalAsync."):
        if method.startswith(prefix):
            return prefix, method[len(prefix) :]
    return "", method


def _count_mismatch(message: Message, wanted: int, received: int) -> Failure:
    return Failure(
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        message.wire_name,
        str(wanted),
        str(received),
    )


def _check_count(message: Message, given: list[Any]) -> None:
    """Too few are refused; too many only where no parameter is optional."""
    wanted = sum(not param.optional for param in message.params)
    surplus = len(given) > len(message.params) and wanted == len(message.params)
    if len(given) < wanted or surplus:
        raise _count_mismatch(message, wanted, len(given))


def _arguments(message: Message, given: list[Any]) -> list[Any]:
    """Return the typed arguments, defaults filled in."""
    _check_count(message, given)
    values = []
    for index, param in enumerate(message.params):
        value = given[index] if index < len(given) else param.default
        values.append(convert(param.type, value))
    return values


def _constructor_record(model: ClassModel, given: dict[str, Any]) -> dict[str, Any]:
    """Return the typed constructor fields; what is no such field is ignored.

    :raises Failure: INTERNAL_ERROR naming a field that is missing
    """
    record = {}
    for name, about in model.fields.items():
        if about.qualifier == "D" or about.flag == "internal":
            continue
        if name in given:
            record[name] = convert(about.type, given[name])
        elif about.required:
            text = f'Server_helpers.Dispatcher_FieldNotFound("{name}")'
            raise internal_error(text)
        else:
            record[name] = about.initial()
    return record


def _check_object(
    db: Registry, message: Message, arguments: list[Any], handler: Handler
) -> None:
    """Refuse a first argument that should name an object and does not."""
    if not message.params or message.params[0].type.kind != "ref":
        return
    cls, ref = message.params[0].type.name, arguments[0]
    if cls not in db.schema.classes or db.exists(cls, ref) or not handler.missing:
        return
    if handler.missing == "HANDLE_INVALID":
        raise handle_invalid(cls, ref)
    raise Failure(handler.missing, ref)


# What messages do that follow from the model


def _get_record(message: Message) -> Callable[..., Any]:
    return lambda call, ref: call.db.record(message.cls, ref)


def _get_all(message: Message) -> Callable[..., Any]:
    return lambda call: call.db.refs(message.cls)


def _get_all_records(message: Message) -> Callable[..., Any]:
    return lambda call: {
        ref: call.db.record(message.cls, ref) for ref in call.db.refs(message.cls)
    }


def _get_all_records_where(message: Message) -> Callable[..., Any]:
    return lambda call, text: {
        ref: call.db.record(message.cls, ref)
        for ref in search(call.db, message.cls, text)
    }


def _get_all_where(message: Message) -> Callable[..., Any]:
    return lambda call, text: search(call.db, message.cls, text)


def _get_by_uuid(message: Message) -> Callable[..., Any]:
    return lambda call, text: call.db.by_uuid(message.cls, text)


def _get_by_name_label(message: Message) -> Callable[..., Any]:
    return lambda call, text: call.db.find(message.cls, name_label=text)


def _getter(message: Message) -> Callable[..., Any]:
    return lambda call, ref: call.db.value(message.cls, ref, message.field)


def _setter(message: Message) -> Callable[..., Any]:
    return lambda call, ref, value: call.db.update(
        message.cls, ref, **{message.field: value}
    )


def _add_to(message: Message) -> Callable[..., Any]:
    return lambda call, ref, key, value: call.db.add_to_map(
        message.cls, ref, message.field, {key: value}
    )


def _remove_from(message: Message) -> Callable[..., Any]:
    return lambda call, ref, key: call.db.remove_from_map(
        message.cls, ref, message.field, key
    )


def _add(message: Message) -> Callable[..., Any]:
    def run(call: Call, ref: str, value: Any) -> None:
        old = call.db.row(message.cls, ref)[message.field]
        if value not in old:
            call.db.update(message.cls, ref, **{message.field: [*old, value]})

    return run


def _remove(message: Message) -> Callable[..., Any]:
    def run(call: Call, ref: str, value: Any) -> None:
        old = call.db.row(message.cls, ref)[message.field]
        rest = [item for item in old if item != value]
        call.db.update(message.cls, ref, **{message.field: rest})

    return run


def _create(message: Message) -> Callable[..., Any]:
    return lambda call, args: call.db.create(message.cls, args)


def _destroy(message: Message) -> Callable[..., Any]:
    return lambda call, ref: call.db.destroy(message.cls, ref)


_GENERIC: dict[str, Callable[[Message], Callable[..., Any]]] = {
    "get_record": _get_record,
    "get_all": _get_all,
    "get_all_records": _get_all_records,
    "get_all_records_where": _get_all_records_where,
    "get_all_where": _get_all_where,
    "get_by_uuid": _get_by_uuid,
    "get_by_name_label": _get_by_name_label,
    "getter": _getter,
    "setter": _setter,
    "add_to": _add_to,
    "remove_from": _remove_from,
    "add": _add,
    "remove": _remove,
    "create": _create,
    "destroy": _destroy,
}


def plain_setter(schema: Schema, message: Message) -> Message | None:
    """Return a hand-written setter as the derived one it looks like, if it does."""
    for prefix, kind in _SETTERS.items():
        name = message.name.removeprefix(prefix)
        about = schema.classes[message.cls].fields.get(name)
        if name == message.name or about is None or about.flag:
            continue
        types = [param.type for param in message.params[1:]]
        if types and types == _setter_types(kind, about.type):
            return dataclasses.replace(message, kind=kind, field=name)
    return None


def _setter_types(kind: str, type_: Type) -> list[Type]:
    if kind == "setter":
        return [type_]
    if kind in ("add", "remove"):
        return list(type_.inner) if type_.kind == "set" else []
    inner = list(type_.inner) if type_.kind == "map" else []
    return inner[:1] if kind == "remove_from" else inner


def _generic(schema: Schema, message: Message) -> Handler:
    if message.kind == "custom":
        setter = plain_setter(schema, message)
        if setter is None:
            return Handler(absent.handler(message))
        message = setter
    return Handler(_GENERIC[message.kind](message))
