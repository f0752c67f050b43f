# SPDX-License-Identifier: Apache-2.0
"""Every message with arguments at random: only answers that a real host gives.

What is refused must be refused with a code, and never with the text of an exception
of ours; what succeeds must have the type that the model names, and afterwards every
record must still be what the model says.
"""

import math
import random
import re
import traceback

import pytest

from tests.sim.clients import (
    NULL,
    XmlClient,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.dispatch import Dispatcher
from xenapi_driver.sim.doors import wire
from xenapi_driver.sim.failure import Failure

# They end what the others need: the host, the session, the pool.
_ENDING = re.compile(
    r"host\.(shutdown|reboot|restart_agent|shutdown_agent|power_on|destroy|migrate_receive"
    r"|local_\w+|call_plugin|call_extension|bugreport_upload|evacuate)"
    r"|VM\.call_host_plugin"
    r"|pool\.(eject\w*|join\w*|emergency\w*|designate_new_master|recover_slaves)"
    r"|session\.(logout\w*|local_logout|login\w*|slave\w*|create\w*|change_password)"
    r"|event\.(next|from)|VLAN\.pool_introduce|SR\.(forget|destroy)|PBD\.(unplug|destroy)"
)
# OCaml's spelling of an exception, as real hosts show it.
_INTERNAL = re.compile(
    r"(Failure|Invalid_argument|\w+(\.\w+)+)\(.*|Db_exn\.\w+|Not_found"
    r"|Internal API .*|IDL Error: .*|\w+: .*",
    re.DOTALL,
)
_PYTHON = re.compile(r"Error\(|Traceback|object at 0x|KeyError|NoneType|<class")
_TEXTS = ("", "0", "1", "-1", "x", "autodetect", "xvdb", "a b", "näme", "x" * 600)
_INTS = (0, 1, -1, 2, 4095, 65536, 1 << 20, 1 << 24, 1 << 30, (1 << 63) - 1)
_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e9, math.inf)


class Sweeper:
    """Calls messages of a host; judges answers and records."""

    def __init__(self, sim, seed):
        self.sim = sim
        self.random = random.Random(seed)
        self.db = sim.world.db
        self.dispatcher = Dispatcher(sim.world)
        self.session = self.login()
        self.faults = []

    def login(self):
        login = ["root", "secret", "1.0", "sweep"]
        return self.dispatcher.execute("session.login_with_password", login)

    # arguments

    def value(self, type_, depth=0):
        if self.random.random() < 0.02:
            return self.random.choice([1, "x", True, [], {}, 1.5])
        kind = type_.kind
        if kind == "ref":
            return self.reference(type_.name)
        if kind == "enum":
            return self.random.choice([*type_.values, *type_.values, "nonesuch"])
        if kind == "set":
            count = self.random.choice([0, 1, 1, 2])
            return [self.value(type_.inner[0], depth + 1) for _ in range(count)]
        if kind == "map":
            key, item = type_.inner
            count = self.random.choice([0, 1, 1, 2])
            pairs = ((self.value(key), self.value(item)) for _ in range(count))
            return {str(k): v for k, v in pairs}
        simple = {
            "string": self.text,
            "int": lambda: self.random.choice([*_INTS, "7", "x"]),
            "float": lambda: self.random.choice(_FLOATS),
            "bool": lambda: self.random.choice([True, False]),
            "datetime": lambda: self.random.choice(["20260821T02:00:23Z", "x"]),
            "record": lambda: self.record(type_.name),
        }
        return simple.get(kind, lambda: "")()

    def text(self):
        if self.random.random() < 0.2:
            cls = self.random.choice(["VM", "VDI", "SR", "host", "network"])
            return self.db.row(cls, self.random.choice(self.db.refs(cls)))["uuid"]
        return self.random.choice(_TEXTS)

    def reference(self, cls):
        lot = self.random.random()
        known = self.db.refs(cls) if cls in self.db.schema.classes else []
        if known and lot < 0.9:
            return self.random.choice(known)
        return self.random.choice([NULL, "OpaqueRef:gone", "", *self.db.refs("VM")[:1]])

    def record(self, cls):
        model = self.db.schema.classes.get(cls)
        if model is None:
            return {}
        return {
            name: about.initial()
            if about.has_default and self.random.random() < 0.6
            else self.value(about.type)
            for name, about in model.fields.items()
            if about.qualifier != "D" or self.random.random() < 0.1
        }

    # judging

    def call(self, message):
        """Call a message once; note what no real host would answer."""
        if not self.db.exists("session", self.session):
            self.session = self.login()
        given = [self.value(param.type) for param in message.params]
        while given and message.params[len(given) - 1].optional:
            if self.random.random() < 0.5:
                break
            given.pop()
        about = f"{message.wire_name}{tuple(given)!r:.400}"
        params = [self.session, *given] if message.needs_session else given
        try:
            answer = self.dispatcher.execute(message.wire_name, params)
            wire.encode_xml(wire.success(answer))
            wire.encode_json(answer, None, 1, True)
            wrong = misfit(message.result, answer)
            if wrong:
                self.faults.append(f"{about} answers {wrong}")
        except Failure as failure:
            wrong = strange(failure.description)
            if wrong:
                self.faults.append(f"{about} refuses: {failure.description}")
        except Exception as error:
            # Whatever it is, no host answers so: the test fails by it.
            self.faults.append(f"{about} raises {error!r:.300} {_place(error)}")

    def judge_records(self, after):
        """Note each field of any record that the model does not allow."""
        # The garbage collector works beside.
        with self.db.changed:
            for cls, model in self.db.schema.classes.items():
                if not model.stored:
                    continue
                for ref in self.db.refs(cls):
                    try:
                        record = self.db.record(cls, ref)
                    except Failure as error:
                        self.faults.append(f"after {after}: {cls} {ref}: {error!r}")
                        continue
                    for name, value in record.items():
                        wrong = misfit(model.fields[name].type, value)
                        if wrong:
                            self.faults.append(f"after {after}: {cls}.{name}: {wrong}")


def _place(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


def strange(description):
    """Return whether a refusal is none of a real host."""
    code, *params = description
    if not all(isinstance(item, str) for item in description):
        return True
    if _PYTHON.search(" ".join(params)):
        return True
    if code == "INTERNAL_ERROR":
        return len(params) != 1 or not _INTERNAL.fullmatch(params[0])
    return not re.fullmatch(r"[A-Z][A-Z0-9_]*|Fault", code)


def misfit(type_, value):
    """Say what is wrong with a value of a type; None: nothing."""
    wanted = {
        "string": str,
        "ref": str,
        "datetime": str,
        "enum": str,
        "int": int,
        "float": float,
        "bool": bool,
        "set": list,
        "map": dict,
        "record": dict,
    }.get(type_.kind)
    if type_.kind == "option":
        return None if value is None else misfit(type_.inner[0], value)
    if wanted is None:
        return None if value in ("", None) else f"{value!r} for {type_}"
    bad = not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
    if bad or (type_.kind == "enum" and value not in type_.values):
        return f"{value!r:.100} for {type_.kind} {type_.name}"
    if type_.kind == "set":
        found = (misfit(type_.inner[0], item) for item in value)
        return next((wrong for wrong in found if wrong), None)
    if type_.kind == "map":
        found = (misfit(type_.inner[1], item) for item in value.values())
        return next((wrong for wrong in found if wrong), None)
    return None


MIB = 1 << 20


def populate(sim):
    """Make a VM with devices in every state that a VM can be in."""
    client = XmlClient(sim.handle)
    sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
    net = client.call("network.get_all")[0]
    limits = ("static_max", "dynamic_max", "dynamic_min", "static_min")
    memory = {f"memory_{name}": str(64 * MIB) for name in limits}
    for what in ("Halted", "Running", "Paused", "Suspended", "snapshot", "checkpoint"):
        vm = client.call("VM.create", vm_record(name_label=what, **memory))
        vdi = client.call("VDI.create", vdi_record(sr, virtual_size=str(8 * MIB)))
        client.call("VBD.create", vbd_record(vm, vdi))
        drive = {"userdevice": "3", "type": "CD", "mode": "RO", "empty": True}
        client.call("VBD.create", vbd_record(vm, NULL, **drive))
        client.call("VIF.create", vif_record(vm, net))
        client.call("VDI.snapshot", vdi)
        if what != "Halted":
            client.call("VM.start", vm, what == "Paused", False)
        if what == "Suspended":
            client.call("VM.suspend", vm)
        if what in ("snapshot", "checkpoint"):
            client.call(f"VM.{what}", vm, "kept")


@pytest.mark.parametrize("seed", range(3))
def test_only_a_hosts_own_answers(tmp_path, seed):
    behaviour = Behaviour(shutdown_timeout=0.05, busy_timeout=0.1, boot_time=0.05)
    sim = Simulator(tmp_path / "state", behaviour=behaviour)
    try:
        populate(sim)
        sweeper = Sweeper(sim, seed)
        messages = [
            message
            for model in sweeper.db.schema.classes.values()
            for message in model.messages.values()
            if not _ENDING.fullmatch(message.wire_name)
        ]
        assert len(messages) > 2000
        for _ in range(3):
            sweeper.random.shuffle(messages)
            for number, message in enumerate(messages):
                sweeper.call(message)
                if number % 200 == 0:
                    sweeper.judge_records(message.wire_name)
        assert sweeper.faults == []
    finally:
        sim.close()


def test_the_sweep_sees_what_is_wrong(sim):
    sweeper = Sweeper(sim, 0)
    assert strange(["INTERNAL_ERROR", "KeyError('boot_time')"])
    assert strange(["not_a_code"])
    assert not strange(["HANDLE_INVALID", "VM", "OpaqueRef:gone"])
    vm = sweeper.db.refs("VM")[0]
    sweeper.db.row("VM", vm)["memory_target"] = "much"
    sweeper.judge_records("a test")
    assert len(sweeper.faults) == 1 and "memory_target" in sweeper.faults[0]
