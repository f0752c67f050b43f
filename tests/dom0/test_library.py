# SPDX-License-Identifier: Apache-2.0
"""What the plugins share, as processes of a dom0: programs, locks, XAPI, progress."""

import base64
import contextlib
import functools
import json
import os
import socket
import tempfile
import textwrap
import threading
import time
import xmlrpc.client
import zlib

import pytest

from tests.dom0 import scratch_host


def put(host, name, body):
    """Put a plugin of a test into the host."""
    file = host.dom0.plugins / name
    file.write_text(
        "#!/usr/bin/python3\nfrom xenapi_dom0 import (commands, failures, locks,\n"
        "    progress, serve, xapi)\nimport os, sys, time\n"
        + textwrap.dedent(body)
        + "\nserve.run({'fn': fn})\n"
    )
    file.chmod(0o755)


@pytest.fixture
def plugin(host):
    """Return a function that puts a plugin of a test into the host."""
    return functools.partial(put, host)


def fails(host, name, request=None):
    """Return code and parameters of the failure that a call ends with."""
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call(name, "fn", request or {})
    return [caught.value.code, *caught.value.params]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return ") Z " not in stat.read()
    except OSError:
        return False


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


RUN = """
def fn(request):
    data = request.get("data")
    out = commands.run(["probe"] + request.get("argv", []), timeout=request.get("t", 5),
                       data=data.encode() if data else None)
    return list(out)
"""


def test_a_program_gets_its_arguments_as_they_are_and_no_environment(host, plugin):
    host.wrap("probe", '#!/bin/sh\nfor a; do echo "<$a>"; done; cat; env >&2\n')
    plugin("p", RUN)
    code, out, err = host.call(
        "p", "fn", {"argv": ["a b", "$(id)", ";ls", "*"], "data": "in"}
    )
    assert (code, out) == (0, "<a b>\n<$(id)>\n<;ls>\n<*>\nin")
    assert "XENAPI_DOM0_ROOT" not in err and "LC_ALL=C" in err


def test_a_program_that_fails_is_told_with_what_it_said(host, plugin):
    host.wrap("probe", "#!/bin/sh\necho it broke >&2; exit 3\n")
    plugin("p", RUN)
    assert fails(host, "p") == ["COMMAND_FAILED", "probe", "exit code 3: it broke"]
    host.wrap("probe", "#!/bin/sh\nkill -9 $$\n")
    assert "killed by signal 9" in fails(host, "p")[2]


def test_a_program_that_is_not_there_is_named(host, plugin):
    plugin("p", RUN)
    assert fails(host, "p") == ["COMMAND_MISSING", "probe"]


def test_a_program_that_hangs_is_ended_with_all_it_started(host, plugin, tmp_path):
    pids = tmp_path / "pids"
    host.wrap(
        "probe",
        f"#!/bin/sh\necho $$ > {pids}\nsleep 77 &\necho $! >> {pids}\nwait\n",
    )
    plugin("p", RUN)
    assert fails(host, "p", {"t": 1}) == ["TIMED_OUT", "probe", "1"]
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not alive(pid))


def test_what_a_program_left_running_does_not_outlive_the_wait_for_its_words(
    old_host, tmp_path
):
    pid = tmp_path / "pid"
    old_host.wrap("probe", f"#!/bin/sh\nsleep 77 &\necho $! > {pid}\n")
    put(old_host, "p", RUN)
    assert fails(old_host, "p", {"t": 1}) == ["TIMED_OUT", "probe", "1"]
    wait_until(lambda: not alive(pid.read_text().strip()))


def test_a_program_that_says_too_much_is_ended(old_host, tmp_path):
    pid = tmp_path / "pid"
    old_host.wrap(
        "probe",
        f"#!/bin/sh\necho $$ > {pid}\nhead -c 17000000 /dev/zero\nexec sleep 77\n",
    )
    put(old_host, "p", RUN)
    said = fails(old_host, "p", {"t": 10})
    assert said == ["COMMAND_FAILED", "probe", "it said more than 16777216 bytes"]
    wait_until(lambda: not alive(pid.read_text().strip()))


def test_a_program_is_fed_and_heard_at_the_same_time(host, plugin):
    host.wrap("probe", "#!/bin/sh\ncat; head -c 300000 /dev/zero >&2; exit 0\n")
    plugin("p", """
    def fn(request):
        data = bytes(range(128)) * 9000
        out = commands.run(["probe"], data=data)
        deaf = commands.run(["true"], data=data)
        return [out.out.encode() == data, len(out.err), deaf.code]
    """)
    assert host.call("p", "fn", {}) == [True, 300000, 0]


def test_a_program_dies_with_a_killed_plugin(host, plugin, tmp_path):
    pid = tmp_path / "pid"
    host.wrap("probe", f"#!/bin/sh\necho $$ > {pid}\nexec sleep 77\n")
    plugin("p", RUN)
    process = host.start_call("p", "fn", {"t": 60})
    wait_until(lambda: pid.exists() and pid.read_text().strip())
    assert alive(pid.read_text().strip())
    process.kill()
    process.communicate()
    wait_until(lambda: not alive(pid.read_text().strip()))


LOCK = """
def fn(request):
    with locks.held("disk", "one", wait=request.get("wait", 30)):
        with open(request["log"], "a") as log:
            log.write("in\\n")
            log.flush()
            time.sleep(request.get("hold", 0))
            log.write("out\\n")
"""


def test_two_calls_on_one_thing_go_one_after_the_other(host, plugin, tmp_path):
    plugin("p", LOCK)
    request = {"log": str(tmp_path / "log"), "hold": 0.2}
    threads = [
        threading.Thread(target=host.start_call("p", "fn", request).communicate)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4


def test_a_lock_that_is_taken_is_told_and_ends_with_its_process(host, plugin, tmp_path):
    plugin("p", LOCK)
    log = tmp_path / "log"
    holder = host.start_call("p", "fn", {"log": str(log), "hold": 60})
    wait_until(log.exists)
    assert fails(host, "p", {"log": str(log), "wait": 0}) == ["BUSY", "disk one"]
    holder.kill()
    holder.communicate()
    assert host.call("p", "fn", {"log": str(log), "wait": 0}) is None


def test_a_folder_of_locks_that_is_a_link_is_refused(host, plugin, tmp_path):
    plugin("p", LOCK)
    (host.root / "run/lock/xenapi-dom0").symlink_to(tmp_path)
    failure = fails(host, "p", {"log": str(tmp_path / "log")})
    assert failure[:2] == ["COMMAND_FAILED", "lock"]
    assert os.listdir(tmp_path) == ["host"]


def test_a_lock_that_cannot_be_opened_is_told(old_host):
    put(old_host, "p", LOCK)
    (old_host.root / "run/lock/xenapi-dom0/disk.one").mkdir(parents=True)
    said = fails(old_host, "p", {"log": "/dev/null"})
    assert said == ["COMMAND_FAILED", "open a lock", "Is a directory"]


def test_what_the_host_itself_fails_at_is_no_defect(old_host):
    put(old_host, "p", """
    def fn(request):
        raise OSError(request["errno"], "it failed", "/there")
    """)
    assert fails(old_host, "p", {"errno": 5}) == ["COMMAND_FAILED", "p.fn", "it failed"]
    assert fails(old_host, "p", {"errno": 28}) == ["NO_SPACE", "/there"]


def test_the_callers_session_reaches_xapi(host, plugin):
    plugin("p", """
    def fn(request):
        session = xapi.Session(request.session)
        return session.call("host.get_hostname", request["host"])
    """)
    name = host.api.xenapi.host.get_hostname(host.host_ref)
    assert host.call("p", "fn", {"host": host.host_ref}) == name


def test_what_xapi_refuses_is_told_without_the_arguments(host, plugin):
    plugin("p", """
    def fn(request):
        return xapi.Session(request.session).call("VM.get_uuid", request["ref"])
    """)
    ref = "OpaqueRef:" + "0" * 36
    failure = fails(host, "p", {"ref": ref})
    assert failure[:3] == ["XAPI_REFUSED", "VM.get_uuid", "HANDLE_INVALID"]


def test_a_hook_logs_in_and_out(host, plugin):
    plugin("p", """
    def fn(request):
        with xapi.local_login() as session:
            return session.call("pool.get_all")
    """)
    pools = host.api.xenapi.pool.get_all()
    # Only the test itself is logged in afterwards.
    for _ in range(2):
        assert host.call("p", "fn", {}) == pools
    assert len(host.sim.world.db.refs("session")) == 1


def test_xapi_that_does_not_answer_is_told(host, plugin):
    plugin("p", """
    def fn(request):
        os.environ["XENAPI_DOM0_ROOT"] = "/nowhere"
        return xapi.Session(request.session).call("pool.get_all")
    """)
    assert fails(host, "p")[:2] == ["COMMAND_FAILED", "ask XAPI for pool.get_all"]


@contextlib.contextmanager
def liar(says):
    """Give a root whose XAPI says that, and the questions that it was asked."""
    asked = []
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        os.makedirs(root + "/var/lib/xcp")
        server = socket.socket(socket.AF_UNIX)
        server.bind(root + "/var/lib/xcp/xapi")
        server.listen(4)

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    client = server.accept()[0]
                    with client:
                        question = b""
                        # Hung up on before all is read, a client is told of an error.
                        while b"</methodCall>" not in question:
                            piece = client.recv(65536)
                            if not piece:
                                break
                            question += piece
                        asked.append(question)
                        client.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield root, asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()


def http(body):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


ASK = """
def fn(request):
    os.environ["XENAPI_DOM0_ROOT"] = request["root"]
    return xapi.Session(request.session).call("VM.start")
"""


def test_a_question_that_is_cut_off_is_not_asked_again(host, plugin):
    plugin("p", ASK)
    with liar(b"") as (root, asked):
        said = fails(host, "p", {"root": root})
    assert said[:2] == ["COMMAND_FAILED", "ask XAPI for VM.start"]
    assert len(asked) == 1


@pytest.mark.parametrize("body", [
    b"<html><br></html>", b"\xff", b"", xmlrpc.client.dumps(("x",), "y").encode(),
    *(xmlrpc.client.dumps((value,), methodresponse=True).encode() for value in (
        "text", {}, {"Status": "Failure"},
        {"Status": "Failure", "ErrorDescription": []},
    )),
])  # fmt: skip
def test_what_no_xapi_answers_is_told(old_host, body):
    put(old_host, "p", ASK)
    with liar(http(body)) as (root, _asked):
        said = fails(old_host, "p", {"root": root})
    assert said[:2] == ["COMMAND_FAILED", "ask XAPI for VM.start"]


def test_each_question_has_its_own_connection(old_host):
    put(old_host, "p", """
    def fn(request):
        os.environ["XENAPI_DOM0_ROOT"] = request["root"]
        session = xapi.Session(request.session)
        return [session.call("VM.get_uuid"), session.call("VM.get_uuid")]
    """)
    answer = {"Status": "Success", "Value": "it"}
    body = xmlrpc.client.dumps((answer,), methodresponse=True).encode()
    # The server hangs up without a word, as one does that waited long enough.
    with liar(http(body)) as (root, asked):
        assert old_host.call("p", "fn", {"root": root}) == ["it", "it"]
    assert len(asked) == 2


def test_progress_reaches_the_callers_own_task(host, plugin, tmp_path):
    plugin("p", """
    def fn(request):
        with progress.Report(request) as report:
            report.at(0.5)
            end = time.monotonic() + 30
            while not os.path.exists(request["until"]):
                assert time.monotonic() < end
                time.sleep(0.05)
    """)
    until = tmp_path / "until"
    task = host.api.xenapi.Async.host.call_plugin(
        host.host_ref, "p", "fn",
        {"request": json.dumps({"until": str(until)}), "call": "one-1"},
    )
    other = host.api.xenapi.task.create("other", "")
    host.api.xenapi.task.add_to_other_config(task, "call", "one-1")
    wait_until(lambda: host.api.xenapi.task.get_progress(task) == 0.5)
    until.touch()
    wait_until(lambda: host.api.xenapi.task.get_status(task) == "success")
    assert host.api.xenapi.task.get_progress(task) == 1.0
    assert host.api.xenapi.task.get_progress(other) == 0.0


def test_progress_that_cannot_be_told_fails_nothing(host, plugin):
    plugin("p", """
    def fn(request):
        with progress.Report(request) as report:
            report.at(0.5)
            time.sleep(1.2)
        return "done"
    """)
    assert host.call_with("p", "fn", {"request": "{}", "call": "nobody-s"}) == "done"


def test_a_packed_request_is_longer_than_an_argument_may_be(host, plugin):
    plugin("p", "def fn(request): return len(request['text'])")
    text = json.dumps({"text": "x" * 500000})
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    assert host.call_with("p", "fn", {"packed": packed}) == 500000


@pytest.mark.parametrize("arguments", [
    {"packed": "!"},
    {"packed": "YWJj"},
    {"packed": base64.b64encode(zlib.compress(b"{" * 9000000)).decode()},
    {"packed": base64.b64encode(zlib.compress(b"{}")[:-2]).decode()},
    {"packed": base64.b64encode(zlib.compress(b"\xff")).decode()},
    {"packed": base64.b64encode(zlib.compress(b"{}")).decode(), "request": "{}"},
    {"request": "{}", "call": "a b"},
    {"request": "{}", "more": "x"},
    {"request": '{"a": NaN}'},
    {"request": "[" * 60000},
])
def test_what_is_no_request_is_a_bad_argument(old_host, arguments):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        old_host.call_with("dom0_plugin_version", "get_version", arguments)
    assert caught.value.code == "BAD_ARGUMENT"


@pytest.mark.parametrize("argument", [
    "", "x", "<a/>", "<methodCall/>", "<?xml version='1.0'?><methodResponse/>",
    xmlrpc.client.dumps((["a"],), "fn"),
    xmlrpc.client.dumps(("s", {"request": 7}), "fn"),
    "<methodCall><methodName>fn</methodName><params><param><value><int>x</int></value>"
    "</param></params></methodCall>",
])
def test_what_is_no_call_is_a_bad_argument(old_host, argument):
    process = old_host.start("dom0_plugin_version", argument)
    out, err = process.communicate(timeout=60)
    with pytest.raises(scratch_host.PluginFailed) as caught:
        scratch_host.answer(out)
    assert (caught.value.code, err) == ("BAD_ARGUMENT", b"")


def test_a_python_that_is_too_old_is_told_in_one_sentence(old_host):
    # Python 2.7 is still in the dom0 of today's hosts; a link could make it python3.
    source = (old_host.dom0.plugins / "xenapi_dom0/__init__.py").read_text()
    lines = source.replace("sys.version_info < (3, 6)", "True")
    file = old_host.dom0.plugins / "xenapi_dom0/__init__.py"
    file.write_text(lines)
    process = old_host.start("dom0_plugin_version", "x")
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"need Python 3.6 or later" in err and b"Traceback" not in err
