# SPDX-License-Identifier: Apache-2.0
"""The guest agent's commands, through XAPI, with an agent at the guest's end."""

import base64
import contextlib
import json
import random
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenapi_dom0 import agent as library
from xenapi_dom0 import domains, failures

from tests.dom0 import guests, plugin_functions
from tests.dom0.scratch_host import PluginFailed, answer
from tests.dom0.test_xenstore import with_store

URL = "http://10.0.0.1/agent-2.0.tar.gz"
MD5 = "0123456789abcdef0123456789ABCDEF"
PATH = "/root/.ssh/authorized_keys"
CONTENT = b"\n# comment\nssh-ed25519 AAAA, with a comma\n"


def base64_of(data):
    return base64.b64encode(data).decode()


FILE = {"b64_path": base64_of(PATH.encode()), "b64_contents": base64_of(CONTENT)}


class Bed:
    """A host, a guest that runs on it, and the plugin's calls for that guest."""

    def __init__(self, host):
        self.host = host
        self.domain = guests.Domain(host)
        self.id = self.domain.id
        self.home = self.domain.home

    def request(self, **more):
        return {"dom_id": self.id, "vm_uuid": self.domain.uuid, "timeout": 20, **more}

    def call(self, fn, **more):
        return self.host.call("agent", fn, self.request(**more))

    def failure(self, fn, **more):
        with pytest.raises(PluginFailed) as caught:
            self.call(fn, **more)
        return [caught.value.code, *caught.value.params]

    def agent(self, features="file_inject"):
        """Return the guest's agent, not running yet."""
        return guests.GuestAgent(self.host.tools.path, self.id, features)

    def left(self):
        """Return the records that questions and answers left."""
        names = self.host.tools.names
        return names(f"{self.home}/data/host") + names(f"{self.home}/data/guest")


@pytest.fixture(params=["embedded", "xenstored", "oxenstored"])
def bed(request, tmp_path):
    """A guest on each kind of xenstore, the plugins under another Python each time."""
    kind = request.param
    python = {"embedded": "current", "xenstored": "3.6", "oxenstored": "3.12"}[kind]
    socket = None if kind == "embedded" else request.getfixturevalue(kind)
    with with_store(tmp_path, python, socket) as host:
        yield Bed(host)


@pytest.fixture
def old(tmp_path, xenstored):
    """The same with Xen's xenstored, under a dom0's Python."""
    with with_store(tmp_path, "3.6", xenstored) as host:
        yield Bed(host)


def test_each_command_is_the_documented_record(bed):
    with bed.agent().running() as agent:
        assert bed.call("version") == "1.39.1"
        assert bed.call("resetnetwork") == ""
        assert bed.call("agentupdate", url=URL, md5sum=MD5) == ""
        assert bed.call("inject_file", **FILE) == ""
        assert agent.asked == [
            ("version", "agent"),
            ("resetnetwork", ""),
            ("agentupdate", f"{URL},{MD5}"),
            ("features", ""),
            (
                "file_inject",
                {"b64_path": FILE["b64_path"], "b64_file": FILE["b64_contents"]},
            ),
        ]
        assert agent.files == {PATH: CONTENT}
        assert bed.left() == []


def exchanged(bed, private):
    """Return the key that the driver has with the agent, as decimal text."""
    pub = str(pow(guests.BASE, private, guests.PRIME))
    theirs = bed.call("key_init", pub=pub)
    return str(pow(int(theirs), private, guests.PRIME))


def test_a_password_reaches_the_guest_encrypted(bed):
    with bed.agent().running() as agent:
        secret = exchanged(bed, random.getrandbits(80))
        word = "correct horse\u00e9"
        text = guests.encrypted(secret, word + "\n")
        assert bed.call("password", enc_pass=text) == ""
        assert agent.password == word
        # Old Windows agents take the key as text only.
        assert isinstance(agent.asked[0][1], str)
        assert word not in str(agent.asked)


def test_the_records_of_the_reference_are_ours():
    # Appendix D of "driver behaviour".
    assert guests.encrypted("12345", "secret\n") == "jP4yaEJXGevjrByXiO4Vmw=="
    assert guests.decrypted("12345", "jP4yaEJXGevjrByXiO4Vmw==") == "secret\n"
    file = library.File(FILE)
    assert json.loads(file.question_of_old().data) == {
        "name": "injectfile",
        "value": base64_of(PATH.encode() + b"," + CONTENT),
    }


def test_old_agents_get_the_old_form(old):
    with old.agent(features="password, injectfile ,kms").running() as agent:
        assert old.call("inject_file", **FILE) == ""
        assert agent.files == {PATH: CONTENT}
        assert [name for name, _ in agent.asked] == ["features", "injectfile"]


def test_an_agent_without_files_is_told(old):
    with old.agent(features="password").running() as agent:
        assert old.failure("inject_file", **FILE) == ["AGENT_LACKS", "inject_file"]
        # It does not know the question either, and says so with its own code.
        agent.does["features"] = lambda name, value: guests.said("-1", "file_inject")
        assert old.failure("inject_file", **FILE) == ["AGENT_LACKS", "inject_file"]
        agent.does["features"] = None
        found = old.failure("inject_file", **FILE, timeout=1)
        assert found == ["AGENT_TIMEOUT", "inject_file", "1"]
        assert old.left() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (guests.said("0", "1.0\\r\\n"), "1.0"),
        (guests.said("0", "1.0\r\n\\r\\n"), "1.0"),
        (guests.said(0, 7), "7"),
        (guests.said("0", "a\\nb"), "a\\nb"),
        ('{"returncode": "0"}', ""),
        (guests.said("0", "<\u20ac>&\u0000"), "<\u20ac>&\0"),
    ],
)
def test_answers_of_the_field_are_read(text, message):
    assert library.read_reply("version", text) == ("0", message)


LIES = {
    "no JSON": "1.39.1",
    "a list": "[]",
    "text": '"0"',
    "nothing": "null",
    "no code": '{"message": "x"}',
    "a code of true": guests.said(True, ""),
    "a code of 0.0": guests.said(0.0, ""),
    "a list as message": guests.said("0", ["x"]),
    "deep": "[" * 2000,
    "no UTF-8": b'{"returncode": "\xff", "message": "\xfe"}',
    "half characters": '{"returncode": "\\udc80", "message": "\\ud800"}',
    "another code": guests.said("D0", "x"),
    "a number like 0": guests.said("00", "x"),
    "control characters": guests.said("\u0000\u0007", "\u001b[31m"),
    "a huge number": '{"returncode": ' + "9" * 2000 + "}",
    "infinity": '{"returncode": 1e999, "message": "x"}',
    "long": guests.said("1", "<" * 1900),
}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
REPLIES = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda code, message: guests.said(code, message).encode(), JSON, JSON
    )
)


@settings(max_examples=150, deadline=None)
@given(data=REPLIES)
def test_whatever_a_guest_answers_is_text_or_a_failure(data):
    try:
        code, message = library.read_reply("version", domains.text(data))
    except failures.Failure as exc:
        assert (exc.code, exc.params[:2]) == ("AGENT_FAILED", ["version", ""])
    else:
        assert isinstance(code, str) and isinstance(message, str)
        assert not message.endswith(("\r", "\n", "\\r", "\\n"))


@settings(max_examples=150, deadline=None)
@given(path=st.text(alphabet="a0-_@/.. \0\n\\\u0660", max_size=12) | JSON)
def test_a_path_stays_below_its_domain(path):
    try:
        found = domains.path({"path": path})
    except failures.Failure as exc:
        assert (exc.code, exc.params[0]) == ("BAD_ARGUMENT", "path")
    else:
        names = found.split("/")
        assert found == path and all(names)
        assert found.isascii() and not set(" .\0\n\\") & set(found)


def test_lies_of_a_guest_are_a_clear_failure(old):
    with old.agent().running() as agent:
        for name in ("no JSON", "deep", "half characters", "control characters"):
            text = LIES[name]
            agent.does["version"] = lambda name, value, text=text: text
            found = old.failure("version")
            assert found[:2] == ["AGENT_FAILED", "version"], name
            assert len(found) == 4, name
        agent.does["version"] = lambda name, value: guests.said("0", "1.0")
        assert old.call("version") == "1.0"
        assert old.left() == []


def test_no_lie_is_taken_for_success():
    for name, text in LIES.items():
        data = text if isinstance(text, bytes) else text.encode()
        try:
            code, message = library.read_reply("version", domains.text(data))
        except failures.Failure as exc:
            assert exc.code == "AGENT_FAILED", name
        else:
            assert code not in library.DONE, name
            assert isinstance(message, str), name


def test_return_codes_of_success(old):
    with old.agent().running() as agent:
        agent.does["resetnetwork"] = lambda name, value: guests.said("500", "done")
        assert old.call("resetnetwork") == "done"
        agent.does["resetnetwork"] = lambda name, value: guests.said("1", "no route\\n")
        found = ["AGENT_FAILED", "resetnetwork", "1", "no route"]
        assert old.failure("resetnetwork") == found
        agent.does["keyinit"] = lambda name, value: guests.said("0", "1")
        found = ["AGENT_FAILED", "key_init", "0", "1"]
        assert old.failure("key_init", pub="5") == found


def test_a_slow_agent_is_waited_for_and_a_silent_one_given_up(old):
    with old.agent().running() as agent:
        agent.does["version"] = guests.slow(1.2, agent.does["version"])
        assert old.call("version") == "1.39.1"
        agent.does["version"] = None
        began = time.monotonic()
        assert old.failure("version", timeout=1) == ["AGENT_TIMEOUT", "version", "1"]
        assert time.monotonic() - began >= 1
        # The question is taken back: the agent does not find it later.
        assert old.left() == []


def test_a_record_that_is_made_before_it_is_filled_is_waited_for(old):
    with old.agent().running() as agent:
        path = f"{old.home}/data/guest"
        question = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"

        def halting(name, value):
            old.host.tools.write(f"{path}/{question}", "")
            time.sleep(0.3)
            return guests.said("0", "1.0")

        agent.does["version"] = halting
        assert old.call("version", id=question) == "1.0"


def test_a_reboot_is_told_at_once(bed):
    with bed.agent().running() as agent:
        agent.does["version"] = lambda name, value: bed.domain.reboot()
        assert bed.failure("version") == ["AGENT_REBOOTED", str(bed.id)]
        assert str(bed.id) not in bed.host.tools.names("/local/domain")
        # The old id means nobody, so nothing is written for it.
        assert bed.failure("version") == ["AGENT_REBOOTED", str(bed.id)]
        assert str(bed.id) not in bed.host.tools.names("/local/domain")
    bed.id = bed.domain.id
    with bed.agent().running():
        assert bed.call("version") == "1.39.1"


def test_an_id_of_another_vm_gets_no_question(old):
    other = guests.Domain(old.host, "other")
    with guests.GuestAgent(old.host.tools.path, other.id).running() as agent:
        found = old.failure("password", dom_id=other.id, enc_pass="c2VjcmV0")
        assert found == ["AGENT_REBOOTED", str(other.id)]
        assert agent.asked == []


def test_questions_to_one_guest_go_one_after_the_other(old):
    with old.agent().running() as agent:
        most = []

        def watched(name, value):
            most.append(len(old.host.tools.names(f"{old.home}/data/host")))
            time.sleep(0.2)
            return guests.said("0", "")

        agent.does["resetnetwork"] = watched
        calls = [
            threading.Thread(target=old.call, args=("resetnetwork",)) for _ in range(3)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert most == [1, 1, 1]


def test_a_guest_that_is_busy_is_told(old):
    with old.agent().running() as agent:
        ends = threading.Event()

        def waits(name, value):
            ends.wait(60)
            return guests.said("0", "")

        agent.does["resetnetwork"] = waits
        first = threading.Thread(
            target=old.call, args=("resetnetwork",), kwargs={"timeout": 100}
        )
        first.start()
        while not agent.asked:
            time.sleep(0.02)
        found = old.failure("version", timeout=1)
        ends.set()
        first.join()
        assert found == ["BUSY", f"agent {old.id}"]
        assert [name for name, _ in agent.asked] == ["resetnetwork"]


def test_what_a_killed_call_left_goes_with_the_next(old):
    with old.agent().running() as agent:
        agent.does["password"] = None
        request = old.request(enc_pass="c2VjcmV0")
        process = old.host.start_call("agent", "password", request)
        while not agent.asked:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert len(old.left()) == 1
        assert old.call("version") == "1.39.1"
        assert old.left() == []


def test_sigterm_takes_the_question_back(old):
    with old.agent().running() as agent:
        agent.does["password"] = None
        request = old.request(enc_pass="c2VjcmV0")
        process = old.host.start_call("agent", "password", request)
        while not agent.asked:
            time.sleep(0.02)
        process.terminate()
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == -signal.SIGTERM
        assert old.left() == []


def test_other_records_of_the_guest_stay(old):
    names = ["data/host/mine", "data/guest/mine", "data/other"]
    for name in names:
        old.host.tools.write(f"{old.home}/{name}", "kept")
    with old.agent().running():
        old.call("version")
    for name in names:
        assert old.host.tools.read(f"{old.home}/{name}") == "kept"


def test_no_other_process_is_told_a_secret(old):
    with old.agent().running() as agent:
        agent.does["password"] = None
        request = old.request(enc_pass="c2VjcmV0")
        process = old.host.start_call("agent", "password", request)
        while not agent.asked:
            time.sleep(0.02)
        # Its own argument is the host's interface; it starts nothing with another.
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            assert children.read() == ""
        process.kill()
        process.communicate()


class TestFirstBoot:
    """Several steps in one call, and two for the password."""

    def names(self, answer):
        return [step["name"] for step in answer["steps"]]

    def test_a_fresh_guest_needs_two_calls(self, bed):
        private = random.getrandbits(80)
        with bed.agent().running() as agent:
            first = bed.call(
                "first_boot",
                version_timeout=20,
                files=[FILE, {**FILE, "b64_path": base64_of(b"/etc/motd")}],
                pub=str(pow(guests.BASE, private, guests.PRIME)),
            )
            assert self.names(first) == [
                "version",
                "inject_file",
                "inject_file",
                "key_init",
            ]
            assert first["steps"][0]["message"] == "1.39.1"
            theirs = int(first["steps"][-1]["message"])
            secret = str(pow(theirs, private, guests.PRIME))
            second = bed.call(
                "first_boot",
                # Whatever the order they are given in, networking goes before.
                agentupdate={"url": URL, "md5sum": MD5},
                resetnetwork=True,
                enc_pass=guests.encrypted(secret, "word\n"),
            )
            assert second == {
                "steps": [
                    {"name": "password", "message": ""},
                    {"name": "resetnetwork", "message": ""},
                    {"name": "agentupdate", "message": ""},
                ]
            }
            assert agent.password == "word"
            assert agent.files == {PATH: CONTENT, "/etc/motd": CONTENT}
            # Its features are asked for once.
            assert [name for name, _ in agent.asked] == [
                "version",
                "features",
                "file_inject",
                "file_inject",
                "keyinit",
                "password",
                "resetnetwork",
                "agentupdate",
            ]
            assert bed.left() == []

    def test_a_step_that_fails_stops_no_other(self, old):
        with old.agent(features="").running() as agent:
            agent.does["resetnetwork"] = lambda name, value: guests.said("1", "oh")
            told = old.call(
                "first_boot",
                files=[FILE],
                resetnetwork=True,
                agentupdate={"url": URL, "md5sum": MD5},
            )
            assert told["steps"] == [
                {"name": "inject_file", "failure": ["AGENT_LACKS", "inject_file"]},
                {
                    "name": "resetnetwork",
                    "failure": ["AGENT_FAILED", "resetnetwork", "1", "oh"],
                },
                {"name": "agentupdate", "message": ""},
            ]

    def test_without_an_agent_nothing_more_is_tried(self, old):
        told = old.call("first_boot", version_timeout=1, resetnetwork=True, pub="5")
        assert told["steps"] == [
            {"name": "version", "failure": ["AGENT_TIMEOUT", "version", "1"]},
            {"name": "key_init", "skipped": True},
            {"name": "resetnetwork", "skipped": True},
        ]
        assert old.left() == []

    def test_a_reboot_ends_it(self, old):
        with old.agent().running() as agent:
            agent.does["file_inject"] = lambda name, value: old.domain.stop()
            told = old.call("first_boot", files=[FILE], resetnetwork=True)
            assert told["steps"] == [
                {"name": "inject_file", "failure": ["AGENT_REBOOTED", str(old.id)]},
                {"name": "resetnetwork", "skipped": True},
            ]

    def test_an_agent_that_starts_late_is_waited_for(self, old):
        agent = old.agent()
        with contextlib.ExitStack() as ending:
            timer = threading.Timer(
                0.7, lambda: ending.enter_context(agent.running())
            )
            timer.start()
            told = old.call("first_boot", version_timeout=20)
            timer.join()
        assert told["steps"] == [{"name": "version", "message": "1.39.1"}]


def test_arguments_are_checked_before_anything_is_done():
    wrong = {
        "key_init": [{}, {"pub": 5}, {"pub": "0x5"}, {"pub": "-5"}, {"pub": "5\n"}],
        "password": [{}, {"enc_pass": "\u00e4"}, {"enc_pass": "a"}, {"enc_pass": None}],
        "inject_file": [
            {},
            {**FILE, "b64_path": ""},
            {**FILE, "b64_contents": "eA==\n"},
            {**FILE, "b64_contents": [1]},
            {**FILE, "b64_contents": "QUJD" * 1000},
        ],
        "agentupdate": [
            {"url": URL},
            {"url": "file:///etc/shadow", "md5sum": MD5},
            {"url": URL + ",x", "md5sum": MD5},
            {"url": URL, "md5sum": MD5 + "0"},
        ],
        "version": [
            {"timeout": 0},
            {"timeout": 3601},
            {"timeout": None},
            {"id": "x"},
            {"id": "../../0"},
            {"dom_id": 0},
            {"vm_uuid": 5},
            {"more": 1},
        ],
        "first_boot": [
            {},
            {"resetnetwork": 1},
            {"files": {}},
            {"files": [FILE] * 17},
            {"files": [5]},
            {"files": [{**FILE, "mode": 7}]},
            {"agentupdate": 5, "resetnetwork": True},
            {"files": [FILE, {**FILE, "b64_contents": "QUJD" * 1000}]},
            {"version_timeout": -1},
        ],
    }
    plugin = plugin_functions.load("agent")
    for fn, requests in wrong.items():
        for request in requests:
            whole = {"dom_id": 1, "timeout": 20, **request}
            found = plugin_functions.refusal(plugin, fn, whole)
            assert found[0] == "BAD_ARGUMENT", (fn, request)
            assert "QUJD" not in found[2]


def test_no_step_is_begun_where_a_later_one_is_refused(old):
    with old.agent().running() as agent:
        long = {**FILE, "b64_contents": "QUJD" * 1000}
        found = old.failure("first_boot", version_timeout=5, files=[FILE, long])
        assert found[:2] == ["BAD_ARGUMENT", "b64_contents"]
        assert agent.asked == []
        assert old.left() == []


def test_a_file_that_the_hosts_store_does_not_take(tmp_path, oxenstored):
    with with_store(tmp_path, "3.6", oxenstored) as host:
        bed = Bed(host)
        with bed.agent().running() as agent:
            fits = {**FILE, "b64_contents": base64_of(b"x" * 1400)}
            assert bed.call("inject_file", **fits) == ""
            long = {**FILE, "b64_contents": base64_of(b"x" * 1600)}
            code, name, why = bed.failure("inject_file", **long)
            assert (code, name) == ("BAD_ARGUMENT", "b64_contents")
            assert "more than this host's xenstored takes" in why
            assert agent.files == {PATH: b"x" * 1400}
            assert bed.left() == []


@pytest.mark.parametrize("kind", ["xenstored", "oxenstored"])
def test_a_question_belongs_to_the_guest(kind, tmp_path, request):
    """The guest's folder is the guest's, as the toolstack makes it, and what is in it.

    So its agent may remove a question. The embedded store knows no owners.
    """
    with with_store(tmp_path, "3.6", request.getfixturevalue(kind)) as host:
        bed = Bed(host)
        host.tools.run("chmod", f"{bed.home}/data", f"n{bed.id}")
        shown = []

        def shows(name, value):
            listed = host.tools.run("ls", "-p", f"{bed.home}/data/host")
            shown.append(listed.stdout)
            return guests.said("0", "1")

        with bed.agent().running() as agent:
            agent.does["version"] = shows
            bed.call("version")
        assert f"(n{bed.id})" in shown[0]


def test_the_answer_is_one_that_xapi_reads(old):
    with old.agent().running() as agent:
        agent.does["version"] = lambda name, value: guests.said("0", "\u0000\ud800<&>")
        process = old.host.start_call("agent", "version", old.request())
        out, err = process.communicate(timeout=30)
        assert (answer(out), err) == ("\0\ud800<&>", b"")
