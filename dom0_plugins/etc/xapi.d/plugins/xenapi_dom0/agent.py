# SPDX-License-Identifier: Apache-2.0
"""Talk to the agent inside a guest, through the guest's part of xenstore.

A question is a record ``data/host/<uuid>``, JSON with ``name`` and ``value``; the agent
answers with ``data/guest/<uuid>``, JSON with ``returncode`` and ``message``. Both are
removed by us. What a guest writes is not to be trusted: it is read as text of limited
length, and nothing of it decides more than the answer to the caller.
"""
import base64
import binascii
import contextlib
import json
import time
import uuid

from xenapi_dom0 import arguments, domains, failures, locks, paths, xenstore
from xenapi_dom0.serve import LOG

POLL = 0.5  # seconds; a watch tells earlier
PAUSE = 0.01  # seconds
VERSION_ATTEMPT = 30  # seconds; an agent that starts may sweep questions away
DONE = ("0",)
KEY_EXCHANGED = ("D0",)
# Agents of old for FreeBSD and Gentoo say 500 when they have done it.
NETWORK_RESET = ("0", "500")
MAX_TEXT = 4096  # characters of an argument that goes into one record
_MAKES_IT_LONG = {"key_init": "pub", "password": "enc_pass", "agentupdate": "url",
                  "inject_file": "b64_contents"}
_HOST, _GUEST = "data/host", "data/guest"


@contextlib.contextmanager
def conversation(request, wait):
    """Give an Agent for the length of a ``with``: nobody else talks to it meanwhile.

    :param wait: seconds in which another conversation with the same guest may end
    :raises Failure: BUSY, AGENT_REBOOTED
    """
    dom_id = domains.number(request)
    vm_uuid = arguments.optional(request, "vm_uuid", arguments.uuid)
    with locks.held("agent", str(dom_id), wait=wait), xenstore.connected() as store:
        agent = Agent(store, dom_id, vm_uuid)
        agent.sweep()
        yield agent


class Agent:
    """The agent of one domain; whoever has one holds the domain's lock."""

    def __init__(self, store, dom_id, vm_uuid):
        self._store = store
        self._dom_id = dom_id
        self._vm_uuid = vm_uuid
        self._home = domains.home(dom_id)
        self._features = None

    def sweep(self):
        """Remove the questions, and answers to them, that killed calls left.

        A guest can make many, so a list that is too long for a message stays.
        """
        for folder in (_HOST, _GUEST):
            at = "%s/%s" % (self._home, folder)
            for name in self._names(at):
                if paths.UUID.match(name):
                    self._store.remove("%s/%s" % (at, name))

    def _names(self, at):
        try:
            return self._store.names(at) or ()
        except xenstore.Refused as exc:
            LOG.warning("Cannot list %s: %s", at, exc.errno)
            return ()

    def ask(self, question, seconds, good=DONE):
        """Return the message with which the agent says that it did something.

        :param question: a Question
        :param good: return codes of success
        :raises Failure: AGENT_TIMEOUT, AGENT_REBOOTED, AGENT_FAILED
        """
        at = "%s/%s/%s" % (self._home, _HOST, question.id)
        reply = "%s/%s/%s" % (self._home, _GUEST, question.id)
        try:
            with self._store.watching(reply, self._home + "/name"):
                self._put(at, question)
                text = self._await(reply, question.called, seconds)
        finally:
            _forget(at, reply)
        code, message = read_reply(question.called, text)
        if code not in good:
            raise failures.Failure(
                failures.AGENT_FAILED, question.called, code, message
            )
        return message

    def _put(self, at, question):
        def write():
            self._require()
            self._store.write(at, question.data)

        try:
            self._store.transact(write)
        except xenstore.Refused as exc:
            if exc.errno != "E2BIG":
                raise
            raise domains.too_long(question.data, question.blamed) from exc

    def _require(self):
        gone = self._store.read(self._home + "/name") is None
        if gone or not domains.is_there(self._store, self._dom_id, self._vm_uuid):
            raise failures.Failure(failures.AGENT_REBOOTED, self._dom_id)

    def _await(self, reply, called, seconds):
        deadline = time.monotonic() + seconds
        while True:
            data = self._store.read(reply)
            # Some make the record first and fill it then.
            if data:
                return domains.text(data)
            self._require()
            left = deadline - time.monotonic()
            if left <= 0:
                raise failures.Failure(failures.AGENT_TIMEOUT, called, seconds)
            self._store.wait(min(left, POLL))
            # A guest that changes its record all the time shall not keep dom0 busy.
            time.sleep(PAUSE)

    def await_version(self, seconds):
        """Return the version of an agent that may have yet to start."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                return self.ask(version(), max(1, min(left, VERSION_ATTEMPT)))
            except failures.Failure as exc:
                if exc.code != failures.AGENT_TIMEOUT:
                    raise
                if time.monotonic() >= deadline:
                    raise failures.Failure(
                        failures.AGENT_TIMEOUT, "version", seconds
                    ) from exc

    def inject(self, file, seconds, identity=None):
        """Put a File into the guest, in the way that its agent knows.

        :raises Failure: AGENT_LACKS, it knows none
        """
        if self._features is None:
            self._features = self._ask_features(seconds)
        if "file_inject" in self._features:
            return self.ask(file.question(identity), seconds)
        if "injectfile" in self._features:
            return self.ask(file.question_of_old(identity), seconds)
        raise failures.Failure(failures.AGENT_LACKS, "inject_file")

    def _ask_features(self, seconds):
        try:
            listed = self.ask(Question("inject_file", "features", ""), seconds)
        except failures.Failure as exc:
            # An agent that does not know the question does not know the rest.
            if exc.code != failures.AGENT_FAILED:
                raise
            return ()
        return [feature.strip() for feature in listed.split(",")]


def _forget(*records):
    """Remove records over a fresh connection: ours may be in mid-message."""
    with contextlib.suppress(failures.Failure), xenstore.connected() as store:
        for at in records:
            store.remove(at)


class Question:
    """What goes to the guest.

    :ivar called: our function's name for it
    :ivar blamed: the argument to which its length is due
    :ivar id: UUID of the record
    :ivar data: what the record holds, bytes
    :raises Failure: BAD_ARGUMENT, where they are more than a record takes
    """

    def __init__(self, called, name, value, identity=None):
        self.called = called
        self.blamed = _MAKES_IT_LONG.get(called, called)
        self.id = identity or str(uuid.uuid4())
        self.data = json.dumps({"name": name, "value": value}).encode("ascii")
        longest = "/local/domain/00000/%s/%s" % (_HOST, self.id)
        domains.require_fit(self.data, longest, self.blamed)


def version(identity=None):
    """Return the Question for the agent's version."""
    return Question("version", "version", "agent", identity)


class File:
    """A file for the guest: path and content, base64 both, as they came."""

    def __init__(self, request):
        self._path = encoded(request, "b64_path")
        self._content = encoded(request, "b64_contents", empty=True)
        self.question()  # refuses what is too long, before anything is done

    def question(self, identity=None):
        """Return the Question of today's agents."""
        value = {"b64_path": self._path, "b64_file": self._content}
        return Question("inject_file", "file_inject", value, identity)

    def question_of_old(self, identity=None):
        """Return the Question of agents before them."""
        path, content = base64.b64decode(self._path), base64.b64decode(self._content)
        value = base64.b64encode(path + b"," + content).decode("ascii")
        return Question("inject_file", "injectfile", value, identity)


def encoded(request, name, empty=False):
    """Return an argument that is base64, on one line."""
    value = arguments.text(request, name, MAX_TEXT, empty)
    try:
        base64.b64decode(value.encode("ascii"), validate=True)
    except (UnicodeError, binascii.Error):
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "is no base64 on one line"
        ) from None
    return value


def read_reply(called, text):
    """Return return code and message, both text, of what a guest answered.

    :raises Failure: AGENT_FAILED, it is no answer; the code is then empty
    """
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        raise _no_answer(called, "the answer is no JSON") from None
    if not isinstance(reply, dict):
        raise _no_answer(called, "the answer is no JSON object")
    code = _plain(reply.get("returncode"))
    message = _plain(reply.get("message", ""))
    if code is None or message is None:
        raise _no_answer(called, "the answer has no returncode and message")
    # Agents end a message with a line break that is escaped once too often.
    ends = ("\\r", "\\n", "\r", "\n")
    while message.endswith(ends):
        message = message[:-2] if message[-2:] in ends else message[:-1]
    return code, message


def _plain(value):
    """Return text or a number as text, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value)


def _no_answer(called, reason):
    return failures.Failure(failures.AGENT_FAILED, called, "", reason)
