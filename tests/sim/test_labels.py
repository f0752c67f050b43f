# SPDX-License-Identifier: Apache-2.0
"""Labels that a request gives the task of its Async call."""

from __future__ import annotations

import http.client
import xmlrpc.client
from urllib.parse import urlsplit

from xenapi_driver.sim import Simulator


def test_a_task_carries_what_the_headers_say(tmp_path):
    sim = Simulator(tmp_path)
    server = sim.serve()
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)

    def call(method, *params, **headers):
        body = xmlrpc.client.dumps(params, method).encode()
        connection.request("POST", "/", body, headers)
        (answer,), _ = xmlrpc.client.loads(connection.getresponse().read())
        return answer["Value"]

    try:
        session = call("session.login_with_password", "root", "secret", "1.0", "test")
        sr = call("pool.get_all_records", session).popitem()[1]["default_SR"]
        labels = {"X-Http-Other-Config-Call": "seven", "X-Other": "not one"}
        task = call("Async.SR.scan", session, sr, **labels)
        plain = call("Async.SR.scan", session, sr)
        assert call("task.get_other_config", session, task) == {"call": "seven"}
        assert call("task.get_other_config", session, plain) == {}
    finally:
        connection.close()
        server.close()
        sim.close()
