# SPDX-License-Identifier: Apache-2.0
"""What calls leave behind, told from the tables before and after the real calls."""

import pytest

from tests import embedded
from tests.sim.clients import (
    NULL,
    XmlClient,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from tests.sim.pools import shared_sr
from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import effects
from xenapi_driver.xapi.effects import NOT_DONE, UNKNOWN, outcome, visible
from xenapi_driver.xapi.vm import VmRecord


class Stage:
    """A pool of two hosts, and what calls need there."""

    def __init__(self, sim, session):
        self.operator = XmlClient(sim.handle)
        self.session = session
        self.sr = shared_sr(self.operator)
        self.here = session.host_ref
        (self.there,) = set(self.operator.call("host.get_all")) - {self.here}

    def vm(self, state="Halted", **changes):
        """Return a VM in a power state."""
        ref = self.operator.call("VM.create", vm_record(**changes))
        if state != "Halted":
            self.operator.call("VM.start_on", ref, self.here, False, False)
        if state == "Paused":
            self.operator.call("VM.pause", ref)
        if state == "Suspended":
            self.operator.call("VM.suspend", ref)
        return ref

    def vdi(self, **changes):
        return self.operator.call("VDI.create", vdi_record(self.sr, **changes))

    def new_vbd(self, **changes):
        return vbd_record(self.vm("Running"), self.vdi(), **changes)

    def vbd(self, plugged=False):
        ref = self.operator.call("VBD.create", self.new_vbd())
        if plugged:
            self.operator.call("VBD.plug", ref)
        return ref

    def new_vif(self, **changes):
        (network, *_others) = self.operator.call("network.get_all")
        return vif_record(self.vm("Running"), network, **changes)

    def vif(self, plugged=False):
        ref = self.operator.call("VIF.create", self.new_vif())
        if plugged:
            self.operator.call("VIF.plug", ref)
        return ref

    def pbd(self, plugged=True):
        (ref, *_others) = self.operator.call("SR.get_PBDs", shared_sr(self.operator))
        if not plugged:
            self.operator.call("PBD.unplug", ref)
        return ref

    def snapshot(self):
        return embedded.snapshot(self.session)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    sim = Simulator(tmp_path_factory.mktemp("pool"), hosts=2)
    with embedded.session(embedded.inside(sim)) as session:
        yield Stage(sim, session)
    sim.close()


def on(make, *more):
    """Return what makes a call's arguments: an object, and others."""
    return lambda stage: (make(stage), *more)


def vm(state, *more):
    return on(lambda stage: stage.vm(state), *more)


MARKED = {"other_config": {"mark": "1"}}
# Calls of which the tables tell, and what they need before.
CALLS = {
    "VM.create": lambda stage: (vm_record(name_label="new", **MARKED),),
    "VM.destroy": vm("Halted"),
    "VM.start": vm("Halted", False, False),
    "VM.start paused": vm("Halted", True, False),
    "VM.start_on": lambda stage: (stage.vm(), stage.there, False, False),
    "VM.start_on paused": lambda stage: (stage.vm(), stage.here, True, False),
    "VM.pause": vm("Running"),
    "VM.unpause": vm("Paused"),
    "VM.suspend": vm("Running"),
    "VM.resume": vm("Suspended", False, False),
    "VM.resume paused": vm("Suspended", True, False),
    "VM.resume_on": lambda stage: (stage.vm("Suspended"), stage.here, False, False),
    "VM.resume_on paused": lambda stage: (
        stage.vm("Suspended"),
        stage.here,
        True,
        False,
    ),
    "VM.clean_shutdown": vm("Running"),
    "VM.hard_shutdown": vm("Running"),
    "VM.hard_shutdown suspended": vm("Suspended"),
    "VM.shutdown": vm("Running"),
    "VM.clean_reboot": vm("Running"),
    "VM.hard_reboot": vm("Running"),
    "VM.hard_reboot paused": vm("Paused"),
    "VM.clone": vm("Halted", "a clone"),
    "VM.snapshot": vm("Running", "a snapshot"),
    "VM.copy": lambda stage: (stage.vm(), "a copy", stage.sr),
    "VM.pool_migrate": lambda stage: (stage.vm("Running"), stage.there, {}),
    "VBD.create": lambda stage: (stage.new_vbd(),),
    "VBD.destroy": on(lambda stage: stage.vbd()),
    "VBD.plug": on(lambda stage: stage.vbd()),
    "VBD.unplug": on(lambda stage: stage.vbd(plugged=True)),
    "VBD.unplug_force": on(lambda stage: stage.vbd(plugged=True)),
    "VIF.create": lambda stage: (stage.new_vif(),),
    "VIF.destroy": on(lambda stage: stage.vif()),
    "VIF.plug": on(lambda stage: stage.vif()),
    "VIF.unplug": on(lambda stage: stage.vif(plugged=True)),
    "VIF.unplug_force": on(lambda stage: stage.vif(plugged=True)),
    "PBD.unplug": on(lambda stage: stage.pbd()),
    "PBD.plug": on(lambda stage: stage.pbd(plugged=False)),
    "VDI.create": lambda stage: (vdi_record(stage.sr, name_label="new", **MARKED),),
    "VDI.destroy": on(lambda stage: stage.vdi()),
    "VDI.clone": on(lambda stage: stage.vdi(name_label="of clones"), {}),
    "VDI.snapshot": on(lambda stage: stage.vdi(name_label="of snapshots"), {}),
    "VDI.copy": lambda stage: (stage.vdi(name_label="of copies"), stage.sr),
    "VDI.resize": on(lambda stage: stage.vdi(), 2**31),
    "task.create": lambda stage: ("a task of ours", "description"),
}


@pytest.fixture(params=CALLS)
def call(request, stage):
    """A call that can be made: its name, and its arguments."""
    return request.param.partition(" ")[0], CALLS[request.param](stage)


def test_outcome_is_told_from_the_tables(stage, call):
    method, args = call
    before = stage.snapshot()
    assert outcome(method, args, before, before) is NOT_DONE
    value = stage.session.call(method, *args)
    assert outcome(method, args, before, stage.snapshot()) == value


def test_effect_is_visible_when_it_is_there_and_not_before(stage, call):
    method, args = call
    before = stage.snapshot()
    value = stage.session.call(method, *args)
    effect = visible(method, args, value, before)
    if method == "task.create":
        assert effect is None  # who makes one waits for it by a watch
        return
    assert not effect.visible(before)
    assert effect.visible(stage.snapshot())


def test_every_rule_is_tested():
    assert {name.partition(" ")[0] for name in CALLS} >= {
        ".".join(one) for one in effects._RULES
    }


WRITES = {
    "VM.set_name_label": ("another",),
    "VM.set_is_a_template": (True,),
    "VM.set_affinity": (NULL,),
    "VM.set_other_config": ({"key": "value"},),
    "VM.add_to_other_config": ("added", "value"),
    "VM.remove_from_other_config": ("there",),
    "VM.set_xenstore_data": ({"vm-data/key": "1"},),
    "VDI.set_name_label": ("another",),
    "VDI.set_other_config": ({"key": "value"},),
    "VDI.set_name_description": ("words",),
    "VM.set_VCPUs_max": (2,),
    "VM.set_memory_limits": (2**28, 2**29, 2**29, 2**29),
}


@pytest.mark.parametrize("method", WRITES)
def test_written_field_is_visible(stage, method):
    there = {"other_config": {"there": "1"}}
    args = (stage.vdi(**there), *WRITES[method])
    if method.startswith("VM."):
        config = dict(there, affinity=stage.here, VCPUs_max="1")
        args = (stage.vm(**config), *WRITES[method])
    before = stage.snapshot()
    stage.session.call(method, *args)
    shows = visible(method, args, "", before).visible
    assert not shows(before)
    assert shows(stage.snapshot())


def test_write_to_what_is_gone_is_not_waited_for(stage):
    ref = stage.vm()
    before = stage.snapshot()
    stage.operator.call("VM.destroy", ref)
    for method, args in (
        ("VM.set_name_label", (ref, "another")),
        ("VM.set_name_description", (ref, "words")),
    ):
        assert visible(method, args, "", before).visible(stage.snapshot())


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("SR.scan", ("OpaqueRef:sr",)),
        ("host.call_plugin", ("OpaqueRef:host", "p", "f", {})),
        ("task.cancel", ("OpaqueRef:task",)),
        ("event.inject", ("VM", "OpaqueRef:vm")),
        ("session.logout", ()),
    ],
)
def test_calls_without_a_trace(stage, method, args):
    assert visible(method, args, "", stage.snapshot()) is None


def test_verbs_without_a_rule_are_unknown(stage):
    tables = stage.snapshot()
    ref = next(iter(tables[VmRecord]))
    for method, args in (
        ("VM.provision", (ref,)),
        ("network.create", ({"name_label": "new"},)),
        ("secret.create", ({"value": "x"},)),
        ("system.listMethods", ()),
    ):
        assert outcome(method, args, tables, tables) is UNKNOWN


@pytest.mark.parametrize("method", ["VM.create", "VDI.create", "VDI.clone", "VM.clone"])
def test_two_that_look_alike_are_not_told_apart(stage, method):
    args = CALLS[method](stage)
    before = stage.snapshot()
    for _time in range(2):
        stage.session.call(method, *args)
    assert outcome(method, args, before, stage.snapshot()) is UNKNOWN


def test_twins_from_before_are_not_taken_for_it(stage):
    for method in ("VM.create", "VDI.create", "VDI.copy", "VM.snapshot"):
        args = CALLS[method](stage)
        stage.session.call(method, *args)
        before = stage.snapshot()
        assert outcome(method, args, before, before) is NOT_DONE


def test_place_that_the_host_chose_is_unknown(stage):
    args = (stage.new_vbd(userdevice="autodetect"),)
    before = stage.snapshot()
    stage.session.call("VBD.create", *args)
    assert outcome("VBD.create", args, before, stage.snapshot()) is UNKNOWN


def test_object_without_its_marks_is_unknown(stage):
    record = vdi_record(stage.sr)
    del record["name_label"]
    before = stage.snapshot()
    stage.session.call("VDI.create", record)
    assert outcome("VDI.create", (record,), before, stage.snapshot()) is UNKNOWN


def test_ints_are_known_again_as_the_text_that_they_become(stage):
    args = (stage.new_vbd(userdevice=3),)
    before = stage.snapshot()
    value = stage.session.call("VBD.create", *args)
    assert outcome("VBD.create", args, before, stage.snapshot()) == value
    marked = (vdi_record(stage.sr, name_label=7, other_config={"size": 2**40}),)
    value = stage.session.call("VDI.create", *marked)
    assert outcome("VDI.create", marked, before, stage.snapshot()) == value


def test_vm_that_is_gone_was_not_started(stage):
    ref = stage.vm()
    before = stage.snapshot()
    stage.operator.call("VM.destroy", ref)
    after = stage.snapshot()
    for method in ("VM.start", "VM.hard_shutdown", "VM.pause"):
        assert outcome(method, (ref,), before, after) is NOT_DONE
    assert outcome("VM.hard_reboot", (ref,), before, after) is UNKNOWN
    assert outcome("VBD.plug", ("OpaqueRef:gone",), before, after) is UNKNOWN


def test_copy_that_somebody_uses_already_is_not_ours(stage):
    source = stage.vdi(name_label="shared name")
    before = stage.snapshot()
    copy = stage.operator.call("VDI.copy", source, stage.sr)
    stage.operator.call("VBD.create", vbd_record(stage.vm(), copy))
    assert outcome("VDI.copy", (source, stage.sr), before, stage.snapshot()) is (
        NOT_DONE
    )


KINDS_OF_CALLS = [
    # reads, repeatable, over at once
    ("VM.get_all_records", True, True, False),
    ("VM.assert_can_boot_here", True, True, False),
    ("host.compute_free_memory", True, True, False),
    ("event.from", True, True, False),
    ("VM.set_name_label", False, True, False),
    ("VM.remove_from_other_config", False, True, False),
    ("task.destroy", False, True, False),
    ("SR.scan", False, True, False),
    ("event.inject", False, True, False),
    ("VM.add_to_other_config", False, False, False),
    ("VM.start", False, False, False),
    ("VM.destroy", False, False, True),
    ("VM.create", False, False, True),
    ("VDI.create", False, False, False),
    ("VDI.destroy", False, False, False),
    ("host.call_plugin", False, False, False),
    ("Async.VM.start_on", False, False, False),
    ("Async.VM.get_record", False, False, False),
]


@pytest.mark.parametrize(("method", "reads", "repeatable", "at_once"), KINDS_OF_CALLS)
def test_kinds_of_calls(method, reads, repeatable, at_once):
    assert effects.reads(method) is reads
    assert effects.repeatable(method) is repeatable
    assert effects.at_once(method) is at_once


@pytest.mark.parametrize(
    "method",
    ["VM.start", "VM.add_to_other_config", "VBD.plug", "session.change_password",
     "session.add_to_other_config"],
)  # fmt: skip
def test_what_must_not_be_done_twice(method):
    assert not effects.repeatable(method)
