# SPDX-License-Identifier: Apache-2.0
"""Disks and VMs over the simulated host's HTTP handlers."""

import contextlib
import http.client
from urllib.parse import urlencode


class Carrier:
    """Sends and fetches over a connection for each transfer."""

    def __init__(self, server, session):
        self._netloc = server.url.partition("://")[2]
        self._session = session

    def send(self, method, path, body=None, headers=None, **arguments):
        """Return the answer and its body."""
        arguments = {"session_id": self._session, **arguments}
        query = urlencode({k: v for k, v in arguments.items() if v is not None})
        connection = http.client.HTTPConnection(self._netloc, timeout=20)
        try:
            joint = "&" if "?" in path else "?"
            connection.request(method, f"{path}{joint}{query}", body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def get(self, path, **arguments):
        """Return the body of a 200."""
        answer, body = self.send("GET", path, **arguments)
        assert answer.status == 200, body
        return body

    def put(self, path, body, client, **arguments):
        """Send under a task of our own; return its record, the task removed."""
        task = client.call("task.create", "transfer", "")
        # A host that has seen enough hangs up.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            answer, _ = self.send("PUT", path, body, task_id=task, **arguments)
            assert answer.status == 200
        return finished(client, task)


def finished(client, task):
    """Return the record of a task once it is finished, and remove it."""
    for _ in range(500):
        record = client.call("task.get_record", task)
        if record["status"] != "pending":
            client.call("task.destroy", task)
            return record
        client.call("event.from", [f"task/{task}"], "", 0.02)
    raise AssertionError(f"The task did not end: {record}")
