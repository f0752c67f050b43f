# SPDX-License-Identifier: Apache-2.0
"""The command that runs a simulated host."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request


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
