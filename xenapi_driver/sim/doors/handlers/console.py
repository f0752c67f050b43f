# SPDX-License-Identifier: Apache-2.0
"""/console: the screen of a running guest, by CONNECT or as a WebSocket.

Behind an ``rfb`` console is a screen that shows what the guest is, and what is typed;
behind a ``vt100`` one the same as text. Both end with the guest's domain ("XAPI
today", sections 7 and 14).
"""

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

from xenapi_driver.sim.doors import websocket
from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.rfb import Viewer
from xenapi_driver.sim.doors.screen import Terminal, compose
from xenapi_driver.sim.doors.site import Stream
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.world import World

_ALIVE = ("Running", "Paused")


class _Consoles:
    """The terminals of a pool, and how many look at each guest."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.terminals: dict[str, Terminal] = {}
        self.viewers: Counter[str] = Counter()


_CONSOLES: "weakref.WeakKeyDictionary[Registry, _Consoles]" = (
    weakref.WeakKeyDictionary()
)
_LOCK = threading.Lock()


@handler("CONNECT", "/console")
def connect(talk: Exchange) -> None:
    """Tunnel to the console; the answer's head is followed by its bytes."""
    console, vm = _wanted(talk)
    with _seat(talk.world, vm):
        talk.begin(200)
        _show(talk.take_over(), talk.world, console, vm)


@handler("GET", "/console", "connect_console_ws")
def browse(talk: Exchange) -> None:
    """The same for a browser, in a WebSocket."""
    console, vm = _wanted(talk)
    headers = talk.request.headers
    if not websocket.is_asked_for(headers):
        raise Refusal(500, 'Ws_helpers.MissingHeader("upgrade")')
    with _seat(talk.world, vm):
        stream = websocket.accept(talk.take_over(), headers)
        _show(stream, talk.world, console, vm)


def _wanted(talk: Exchange) -> tuple[str, str]:
    """Return the console that is asked for and its VM.

    :raises Refusal: 401, or 500 when there is none on this host
    """
    talk.session()
    db = talk.world.db
    with db.changed:
        console = _find(db, talk.arguments)
        vm = db.row("console", console)["VM"]
        row = db.row("VM", vm)
        here = row["resident_on"] == talk.machine.host
        if row["power_state"] != "Running" or not here:
            raise Refusal(500, "Console.Failure")
    return console, vm


def _find(db: Registry, arguments: dict[str, str]) -> str:
    ref, uuid = arguments.get("ref"), arguments.get("uuid")
    if ref is None and uuid is None:
        raise Refusal(500, "Console.Failure")
    for cls in ("console", "VM"):
        found = [ref] if ref is not None else db.find(cls, uuid=uuid)
        if found and db.exists(cls, found[0]):
            return found[0] if cls == "console" else _first(db, found[0])
    if uuid is not None:
        raise Refusal(500, f'Db_exn.Read_missing_uuid("console", "", "{uuid}")')
    raise Refusal(500, "Console.Failure")


def _first(db: Registry, vm: str) -> str:
    """Return the console of a VM that a viewer wants: a screen before a text."""
    consoles = list(db.row("VM", vm)["consoles"])
    consoles.sort(key=lambda ref: db.row("console", ref)["protocol"] != "rfb")
    if not consoles:
        raise Refusal(500, "Console.Failure")
    return str(consoles[0])


def _of(world: World) -> _Consoles:
    with _LOCK:
        return _CONSOLES.setdefault(world.db, _Consoles())


@contextlib.contextmanager
def _seat(world: World, vm: str) -> Iterator[None]:
    """Take a place before the console.

    :raises Refusal: 503, it is taken and the pool allows one viewer a guest
    """
    consoles = _of(world)
    alone = world.db.row("pool", world.db.refs("pool")[0])["limit_console_sessions"]
    with consoles.lock:
        if alone and consoles.viewers[vm]:
            raise Refusal(503)
        consoles.viewers[vm] += 1
    try:
        yield
    finally:
        with consoles.lock:
            consoles.viewers[vm] -= 1


def _show(stream: Stream, world: World, console: str, vm: str) -> None:
    db = world.db
    label = db.row("VM", vm)["name_label"]
    consoles = _of(world)
    with consoles.lock:
        gone = [ref for ref in consoles.terminals if not db.exists("console", ref)]
        for ref in gone:
            del consoles.terminals[ref]
        prompt = f"{label} login: "
        terminal = consoles.terminals.setdefault(console, Terminal(prompt))
    look = _look(world, console, vm, terminal)
    pool = db.row("pool", db.refs("pool")[0])
    patience = float(pool["vm_console_idle_timeout"]) or None
    if db.row("console", console)["protocol"] == "rfb":
        Viewer(stream, label, terminal, look).serve(patience)
    else:
        _type_and_print(stream, terminal, look, patience)


def _look(
    world: World, console: str, vm: str, terminal: Terminal
) -> Callable[[], tuple[str, ...] | None]:
    """Return a function that gives the screen's lines, None once it is gone."""
    db = world.db
    domain = db.row("VM", vm)["domid"]

    def look() -> tuple[str, ...] | None:
        with db.changed:
            if world.closing.is_set() or not db.exists("console", console):
                return None
            row = db.row("VM", vm)
            if row["domid"] != domain or row["power_state"] not in _ALIVE:
                return None
            heading = [
                row["name_label"],
                row["power_state"],
                f"uuid {row['uuid']}",
                f"{row['VCPUs_at_startup']} VCPUs, "
                f"{row['memory_target'] // 1024**2} MiB, domain {domain}",
            ]
        return compose(heading, terminal.lines())

    return look


def _type_and_print(
    stream: Stream,
    terminal: Terminal,
    look: Callable[[], tuple[str, ...] | None],
    patience: float | None,
) -> None:
    """Serve a text console: what it shows, then an echo of what is typed."""
    stream.set_timeout(patience)
    over = threading.Event()

    def end_with_guest() -> None:
        while look() is not None and not over.wait(0.2):
            pass
        with contextlib.suppress(OSError):
            stream.hang_up()

    guard = threading.Thread(target=end_with_guest, name="sim-vt100", daemon=True)
    guard.start()
    try:
        with contextlib.suppress(OSError):
            stream.write("\r\n".join(look() or ()).encode())
            while data := stream.read(1024):
                text = data.decode("latin-1")
                terminal.type(text)
                stream.write(_echo(text, terminal).encode())
    finally:
        over.set()
        guard.join()


def _echo(text: str, terminal: Terminal) -> str:
    """Return what a terminal writes back for what was typed."""
    prompt = terminal.lines()[-1] if text[-1:] in "\r\n" else ""
    return text.replace("\r", "\n").replace("\n", "\r\n") + prompt
