# SPDX-License-Identifier: Apache-2.0
"""The command that runs a simulated host."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from xenapi_driver.sim import command


def test_command_serves_until_sigterm(tmp_path):
    command = [sys.executable, "-m", "xenapi_driver.sim", "--admin", "--compute-vm"]
    path = tmp_path / "xapi"
    log = tmp_path / "log"
    command += ["--state", str(tmp_path), "--socket", str(path), "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        url = line.split()[-1]
        with urllib.request.urlopen(url + "/_sim/inventory", timeout=10) as answer:
            assert "nova-compute" in json.load(answer)["VM"]
        fault = json.dumps({"method": "VM.start", "error": ["TOO_BUSY"]}).encode()
        with urllib.request.urlopen(url + "/_sim/rules", fault, timeout=10) as answer:
            assert answer.status == 200
        assert process.stdout.readline() == f"listening on unix://{path}\n"
        with socket.socket(socket.AF_UNIX) as local:
            local.connect(str(path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert "POST /_sim/rules" in log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--port", "99999", "99999 is no port: 0 to 65535"),
        ("--hosts", "0", "0 is no number from 1 on"),
        ("--pools", "-1", "-1 is no number from 1 on"),
        ("--sr-size-gib", "big", "big is no number from 1 on"),
        ("--latency", "-5", "-5 is no number from 0 on"),
        ("--agent-delay", "inf", "inf is no number from 0 on"),
        ("--plugins", "/nowhere/at/all", "there is no directory /nowhere/at/all"),
        ("--dom0-python", "/nowhere/python", "there is no program /nowhere/python"),
        ("--xenstore", "/nowhere/socket", "/nowhere/socket is no socket"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(capsys, option, value, why):
    with pytest.raises(SystemExit) as ended:
        command.main([f"{option}={value}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"argument {option}: {why}\n")


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command.main(["--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"Cannot listen at 127.0.0.1 from port {port} on: Address already in use.\n"
    )


def test_an_address_of_another_machine_is_refused(capsys):
    assert command.main(["--host", "192.0.2.1"]) == 1
    assert capsys.readouterr().err == (
        "Cannot listen at 192.0.2.1 on free ports: Cannot assign requested address.\n"
    )


def test_a_log_that_cannot_be_written_is_refused(capsys):
    assert command.main(["--log", "/nowhere/at/all"]) == 1
    assert capsys.readouterr().err == "/nowhere/at/all: No such file or directory.\n"


def test_a_name_without_an_address_is_refused(capsys):
    assert command.main(["--host", "nowhere.invalid"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Cannot listen at nowhere.invalid on free ports: ")
    assert "Unknown error" not in said


def test_a_socket_that_cannot_be_had_is_named(capsys, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert command.main(["--xenstore", str(path)]) == 1
        assert capsys.readouterr().err == f"{path}: Connection refused.\n"
        other.listen()
        assert command.main(["--socket", str(path)]) == 1
        assert capsys.readouterr().err == f"{path}: Address already in use.\n"
    long = tmp_path / ("x" * 110)
    assert command.main(["--socket", str(long)]) == 1
    assert capsys.readouterr().err == f"{long}: AF_UNIX path too long.\n"
