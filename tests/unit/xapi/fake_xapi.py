# SPDX-License-Identifier: Apache-2.0
"""A host of a few canned answers, in this process or behind real HTTP and TLS.

It knows logins, sessions, tasks and event.from well enough for the client layer;
everything else is set by the test. The embedded host is the strict one; this one
can misbehave on the wire.
"""

import contextlib
import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
import time
import xmlrpc.client

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Refused(Exception):
    """An ErrorDescription, as a method of the fake raises it."""


class FakeXapi:
    """Answers calls; ``methods`` maps a name to a value or a callable(*args)."""

    def __init__(self):
        self.methods = {
            "host.get_uuid": "host-uuid",
            "pool.get_all": ["OpaqueRef:pool"],
            "session.get_this_host": "OpaqueRef:host",
        }
        self.calls = []
        self.sessions = set()
        self.logins = 0
        self.tasks = {}
        self.changed = threading.Condition()
        self.generation = 0
        self.deleted = []
        self.coordinator = None

    def handle(self, body):
        """Answer one marshalled call."""
        args, method = xmlrpc.client.loads(body.decode())
        self.calls.append((method, args))
        try:
            answer = {"Status": "Success", "Value": self.answer(method, args)}
        except Refused as exc:
            answer = {"Status": "Failure", "ErrorDescription": list(exc.args)}
        if method == "system.listMethods":
            answer = answer["Value"]
        return xmlrpc.client.dumps((answer,), methodresponse=True).encode()

    def names(self):
        """The methods called, without polls."""
        return [name for name, _args in self.calls if name != "event.from"]

    def answer(self, method, args):
        if method == "session.login_with_password":
            return self.login(*args)
        if method != "system.listMethods" and args[0] not in self.sessions:
            raise Refused("SESSION_INVALID", args[0])
        args = args[1:]
        if method == "session.logout":
            self.expire()
            return ""
        if method == "event.from":
            return self.events(*args)
        if method.startswith("task."):
            return self.task_method(method, *args)
        if method not in self.methods:
            raise Refused("MESSAGE_METHOD_UNKNOWN", method)
        found = self.methods[method]
        return found(*args) if callable(found) else found

    def login(self, user, password, _version, originator):
        if self.coordinator:
            raise Refused("HOST_IS_SLAVE", self.coordinator)
        if password != "secret":
            raise Refused("SESSION_AUTHENTICATION_FAILED", user, "Failure")
        self.logins += 1
        ref = f"OpaqueRef:session-{self.logins}-{originator}"
        self.sessions.add(ref)
        return ref

    def expire(self):
        """End all sessions, as xapi does after a day without use."""
        with self.changed:
            self.sessions.clear()
            self.changed.notify_all()

    # Tasks and events

    def set_task(self, ref, status="pending", progress=0.0, **fields):
        with self.changed:
            record = {"status": status, "progress": progress, "result": "",
                      "error_info": []}  # fmt: skip
            self.tasks[ref] = {**record, **fields}
            self.generation += 1
            self.tasks[ref]["generation"] = self.generation
            self.changed.notify_all()

    def drop_task(self, ref):
        with self.changed:
            del self.tasks[ref]
            self.generation += 1
            self.deleted.append((self.generation, ref))
            self.changed.notify_all()

    def task_method(self, method, ref):
        if ref not in self.tasks:
            raise Refused("HANDLE_INVALID", "task", ref)
        if method == "task.destroy":
            self.drop_task(ref)
            return ""
        if method == "task.cancel":
            self.set_task(ref, "cancelled", error_info=["TASK_CANCELLED", ref])
            return ""
        return self.tasks[ref]

    def events(self, _classes, token, timeout):
        since = int(token.partition(",")[0] or 0)
        deadline = time.monotonic() + timeout
        with self.changed:
            sessions = set(self.sessions)
            while self.generation <= since and time.monotonic() < deadline:
                if token == "" or not self.changed.wait(0.05):
                    break
                if not sessions & self.sessions:
                    raise Refused("SESSION_INVALID", "OpaqueRef:gone")
            found = [
                self.event(ref, "mod", snapshot=record)
                for ref, record in self.tasks.items()
                if record["generation"] > since
            ]
            found += [
                self.event(ref, "del")
                for at, ref in self.deleted
                if token and at > since
            ]
            return {
                "events": found,
                "valid_ref_counts": {"task": len(self.tasks)},
                "token": f"{self.generation:020},0",
            }

    @staticmethod
    def event(ref, operation, **more):
        return {"id": "1", "timestamp": "0.0", "class": "task", "ref": ref,
                "operation": operation, **more}  # fmt: skip


class HttpDoor:
    """A fake behind HTTP/1.1, in TLS when a certificate is given.

    :ivar misbehave: list of "close" (drop the connection before answering),
        "hang" (answer after ``hang_seconds``) or an HTTP status, each for one
        request
    """

    def __init__(self, fake, certificate=None, port=0, address="127.0.0.1"):
        self.fake = fake
        self.misbehave = []
        self.connections = 0
        self.hang_seconds = 2.0
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                door.connections += 1
                door.open_sockets.append(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/":
                    self.send_error(404)
                    return
                how = door.misbehave.pop(0) if door.misbehave else None
                if how == "close":
                    self.close_connection = True
                    return
                if how == "hang":
                    time.sleep(door.hang_seconds)
                answer = door.fake.handle(body)
                if how == "close after":
                    self.close_connection = True
                    return
                self.send_response(how if isinstance(how, int) else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, _request, _client):
                pass  # clients that go away are what is tested

        self.open_sockets = []
        self.server = Server((address, port), Handler)
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.file)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True
            )
            scheme = "https"
        self.port = self.server.server_address[1]
        self.url = f"{scheme}://{address}:{self.port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.02,), daemon=True
        )
        self.thread.start()

    def drop_connections(self):
        """Close every open connection, as a host that restarts."""
        for sock in self.open_sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.open_sockets.clear()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.drop_connections()
        self.thread.join()


class Certificate:
    """A self-signed certificate for 127.0.0.1, with its key in one PEM file."""

    def __init__(self, folder, address="127.0.0.1"):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake host")])
        now = datetime.datetime.now(datetime.timezone.utc)
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address(address))]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
            .sign(key, hashes.SHA256())
        )
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        self.file = str(folder / f"{address}-{self.fingerprint[:8]}.pem")
        with open(self.file, "wb") as pem:
            pem.write(certificate.public_bytes(serialization.Encoding.PEM))
            pem.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
