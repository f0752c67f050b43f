# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a handler, and the answer to it.

A function registered with :func:`handler` gets an :class:`Exchange`. It finds out who
asks (:meth:`Exchange.session`), binds the work to a task (:meth:`Exchange.transfer`),
and answers: in one piece (:meth:`Exchange.answer`), as a stream (:meth:`Exchange.begin`
and :meth:`Exchange.write`) or by talking another protocol (:meth:`Exchange.take_over`).
A :class:`Refusal` or a Failure that it raises becomes the host's web page.
"""

import base64
import binascii
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xenapi_driver.sim import tasks
from xenapi_driver.sim.doors.refusals import Refusal, reason
from xenapi_driver.sim.doors.request import Request
from xenapi_driver.sim.doors.site import Site, Stream
from xenapi_driver.sim.doors.wire import value_xml
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.faults import Late
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World, now

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "X-Requested-With",
}


class Body:
    """A request's body, read forwards."""

    def __init__(
        self, stream: Stream, length: int | None, passed: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._passed = passed
        self.length = length
        self.done = 0

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; b"" at the end.

        An end before the announced length is an end too: compare ``done``.
        """
        if self.length is not None:
            size = min(size, self.length - self.done)
        if size <= 0:
            return b""
        data = self._stream.read(size)
        self.done += len(data)
        self._passed(len(data))
        return data

    def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, less only where the body ends."""
        parts = []
        while size > 0:
            data = self.read(size)
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


@dataclass
class Transfer:
    """Work that is bound to a task.

    :ivar result: becomes the task's result; None leaves it empty
    """

    call: Call
    result: Any = None


class Exchange:
    """A request and the answer that is being given.

    :ivar status: of the answer, 0 before it began
    :ivar must_close: the connection cannot serve another request
    :ivar in_log: the request was written down already
    :ivar was_refused: the answer is, or ended with, a page that says so
    """

    def __init__(
        self, request: Request, stream: Stream, site: Site, realm: str = ""
    ) -> None:
        self.request = request
        self.site = site
        self.machine = site.machine
        self.peer = stream.peer
        self.body = Body(stream, request.length, self._count)
        # Arguments may come as cookies too ("XAPI today", section 7).
        self.arguments = {**request.cookies, **request.query}
        self.status = 0
        self.must_close = not request.keeps_alive
        self.was_refused = False
        self.in_log = False
        self._stream = stream
        self._realm = realm
        self._task = ""
        self._late: Late | None = None
        self._left = -1
        self._session = ""
        self._at_end = contextlib.ExitStack()

    @property
    def world(self) -> World:
        """Return the pool of the machine that is asked."""
        return self.machine.world

    # who asks

    def session(self) -> str:
        """Return the caller's session; one made for Basic auth ends with the request.

        :raises Refusal: 401
        """
        if not self._session:
            self._session = self._known_session() or self._own_session()
        return self._session

    def _count(self, size: int) -> None:
        """Let a rule hit when enough bytes are through, in either direction."""
        if self._left < 0:
            return
        self._left -= min(size, self._left)
        if self._left == 0:
            self._left = -1
            self._hit_late()

    def _hit_late(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            late()

    def _known_session(self) -> str:
        given = self.arguments.get("session_id", "")
        if given and not self.world.db.exists("session", given):
            raise Refusal(401, realm=self._realm)
        return given

    def _own_session(self) -> str:
        world = self.world
        credentials = _basic(self.request.headers.get("authorization", ""))
        known = credentials == (world.username, world.password)
        if not known and not self.peer.trusted:
            if credentials is not None and world.behaviour.login_delay:
                time.sleep(world.behaviour.login_delay)
            raise Refusal(401, realm=self._realm)
        session = world.db.create(
            "session",
            {
                "this_host": self.machine.host,
                "auth_user_name": world.username,
                "is_local_superuser": True,
                "last_active": now(),
                "validation_time": now(),
            },
        )
        self._at_end.callback(self._forget, session)
        return session

    def _forget(self, session: str) -> None:
        with self.world.db.changed:
            if self.world.db.exists("session", session):
                self.world.db.destroy("session", session)

    # the task

    @contextlib.contextmanager
    def transfer(self, label: str) -> Iterator[Transfer]:
        """Bind what is done inside to the caller's task, else to a new one.

        The task ends with what is done: successfully, or with the Failure that is
        raised. From here on the answer names it in its header.

        :raises Refusal: 401, or 500 for a task that there is not
        """
        session = self.session()
        task = self._task = self._find_task(label, session)
        work = Transfer(Call(self.world, label, session, task))
        try:
            yield work
        except Failure as failure:
            status = "cancelled" if failure.code == "TASK_CANCELLED" else "failure"
            tasks.finish(self.world, task, status, error=failure.description)
            raise
        except Exception as exc:
            text = ["INTERNAL_ERROR", repr(exc)]
            tasks.finish(self.world, task, "failure", error=text)
            raise
        result = "" if work.result is None else value_xml(work.result)
        tasks.finish(self.world, task, "success", result=result)

    def _find_task(self, label: str, session: str) -> str:
        db = self.world.db
        tasks.sweep(self.world)
        with db.changed:
            for name in ("task_id", "subtask_of"):
                given = self.arguments.get(name)
                if given is not None and not db.exists("task", given):
                    text = f'"missing row", "task", "{given}"'
                    raise Refusal(500, f"Db_exn.DBCache_NotFound({text})")
            if "task_id" in self.arguments:
                return self.arguments["task_id"]
            ref = db.create(
                "task",
                {
                    "name_label": label,
                    "created": now(),
                    "status": "pending",
                    "type": "<none/>",
                    "resident_on": self.machine.host,
                    "session": session,
                    "subtask_of": self.arguments.get("subtask_of", NULL),
                    "backtrace": "()",
                },
            )
            self.world.own_tasks.add(ref)
            return ref

    # the answer

    def begin(
        self, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send the head of an answer that ends with the connection."""
        self.must_close = True
        lines = {"Connection": "close", "Cache-Control": "no-cache, no-store"}
        if self._task:
            lines["task-id"] = self._task
        self._head(status, {**lines, **(headers or {})})

    def write(self, data: bytes) -> None:
        """Send more of an answer that was begun."""
        if 0 <= self._left <= len(data):
            self._stream.write(data[: self._left])
        else:
            self._stream.write(data)
        self._count(len(data))

    def answer(
        self,
        kind: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        status: int = 200,
    ) -> None:
        """Answer in one piece; the connection can be used again."""
        self.drain()
        # Who has the whole answer finds nothing left of the request.
        self._at_end.close()
        lines = {
            "connection": "close" if self.must_close else "keep-alive",
            "cache-control": "no-cache, no-store",
            "content-type": kind,
            "content-length": str(len(body)),
            **_CORS,
            **(headers or {}),
        }
        self._head(status, lines, body)

    def redirect(self, address: str) -> None:
        """Send the caller to another host, with the same question."""
        location = f"https://{address}{self.request.target}"
        self.begin(302, {"Location": location, "content-length": "0"})

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a web page; one that comes too late stands in the stream."""
        self.must_close = self.was_refused = True
        self._at_end.close()
        page = refusal.page()
        lines = {
            "content-length": str(len(page)),
            "content-type": "text/html",
            "connection": "close",
            "cache-control": "no-cache, no-store",
            **dict(refusal.head()),
        }
        self._head(refusal.status, lines, page)

    def take_over(self) -> Stream:
        """Return the connection, to talk another protocol on it from here on."""
        self.must_close = True
        return self._stream

    def drain(self) -> None:
        """Read what is left of a short body, so that another request can follow."""
        left = (self.body.length or 0) - self.body.done
        if left > 64 * 1024:
            self.must_close = True
        elif left:
            self.body.exactly(left)

    def _head(self, status: int, lines: Mapping[str, str], body: bytes = b"") -> None:
        self.status = self.status or status
        text = f"HTTP/1.1 {status} {reason(status)}\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._stream.write(text.encode() + b"\r\n" + body)

    def run(self, function: "Handler") -> None:
        """Let a handler answer, and answer for it when it cannot.

        :raises OSError: the connection broke
        """
        name = f"{self.request.method} {self.request.path}"
        call = Call(self.world, name, self.arguments.get("session_id", ""))
        with self._at_end:
            try:
                self._late, self._left = self.world.faults.during(name, call)
                function(self)
                self._hit_late()
            except Refusal as refusal:
                self.refuse(refusal)
            except Failure as failure:
                self.refuse(Refusal(500, failure_text(failure)))
            except OSError:
                raise
            except Exception as exc:
                # A fault of the simulator itself: the caller has to learn of it.
                self.refuse(Refusal(500, repr(exc)))
                raise


Handler = Callable[[Exchange], None]
_HANDLERS: dict[tuple[str, str], tuple[Handler, str]] = {}


def handler(method: str, path: str, name: str = "") -> Callable[[Handler], Handler]:
    """Register a function for a method and all paths that begin with ``path``.

    :param name: of the action, where it is not method and path; strangers are told
    """

    def register(function: Handler) -> Handler:
        name_here = name or (method + path).lower().replace("/", "_")
        _HANDLERS[method, path] = (function, name_here)
        return function

    return register


def find(method: str, path: str) -> tuple[Handler, str] | None:
    """Return the handler of the longest path that fits, and its name; or None."""
    fitting = [key for key in _HANDLERS if key[0] == method and path.startswith(key[1])]
    if not fitting:
        return None
    return _HANDLERS[max(fitting, key=lambda key: len(key[1]))]


def paths() -> list[str]:
    """Return method and path of every handler that is registered, sorted by path."""
    keys = sorted(_HANDLERS, key=lambda key: (key[1], key[0]))
    return [f"{method} {path}" for method, path in keys]


def failure_text(failure: Failure) -> str:
    """Return a Failure as the host's web page writes it."""
    return f"{failure.code}: [ {'; '.join(failure.description[1:])} ]"


def _basic(header: str) -> tuple[str, str] | None:
    """Return user and password of an Authorization header; None: there are none."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    user, _, password = text.partition(":")
    return user, password
