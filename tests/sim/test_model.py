# SPDX-License-Identifier: Apache-2.0
"""The simulator's data model against the published one, and what is absent in it."""

import json
import os
from pathlib import Path

import pytest

from tests.sim.clients import NULL, Refused
from xenapi_driver.sim import absent, schema
from xenapi_driver.sim.dispatch import plain_setter
from xenapi_driver.sim.messages import HANDLERS

_BESIDE = Path(__file__).parents[3] / "shared" / "reference" / "xapi-model.json"
PUBLISHED = Path(os.environ.get("XAPI_MODEL_FILE", _BESIDE))
QUALIFIERS = {"RW": "RW", "StaticRO": "S", "DynamicRO": "D"}
# The published default of this one is an empty set, although it is an enum.
ODD_DEFAULTS = {"latest_synced_updates_applied": "unknown"}

# What hosts can do and these cannot yet.
NOT_DONE = {
    "host.create",
    "network.attach_for_vm",
    "network.detach_for_vm",
    "pool.initial_auth",
    "role.get_by_permission",
    "role.get_by_permission_name_label",
    "role.get_permissions",
    "role.get_permissions_name_label",
    "subject.get_permissions_name_label",
}

needs_published = pytest.mark.skipif(
    not PUBLISHED.exists(),
    reason=f"the published model is not at {PUBLISHED} (set XAPI_MODEL_FILE)",
)


@pytest.fixture(scope="module")
def ours():
    return schema.load()


@pytest.fixture(scope="module")
def published():
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def published_default(name, type_, value):
    if type_.startswith("map("):
        return dict(value)
    if name in ODD_DEFAULTS:
        return ODD_DEFAULTS[name]
    return value.replace("-", "") if type_ == "datetime" else value


def field_facts(about):
    fact = {"qualifier": QUALIFIERS[about["qualifier"]], "type": about["type"]}
    if "default" in about:
        fact["default"] = published_default(
            about["name"], about["type"], about["default"]
        )
    return fact


def our_field_facts(about, enums):
    fact = {"qualifier": about.qualifier, "type": about.type}
    if about.has_default:
        fact["default"] = about.default
    return fact


@needs_published
def test_enums_are_the_published_ones(published):
    path = Path(schema.__file__).with_name("schema.json")
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert raw["enums"] == {n: e["values"] for n, e in published["enums"].items()}


@needs_published
def test_classes_and_relations_are_the_published_ones(ours, published):
    facts = {
        name: (model.events, model.stored, model.constructor)
        for name, model in ours.classes.items()
    }
    assert facts == {
        name: (about["events"], about["in_database"], about["constructor"])
        for name, about in published["classes"].items()
    }
    pairs = [[".".join(one), ".".join(many)] for one, many in ours.relations]
    assert pairs == published["relations"]


@needs_published
def test_fields_are_the_published_ones(ours, published):
    enums = {name: about["values"] for name, about in published["enums"].items()}
    for cls, about in published["classes"].items():
        fields = ours.classes[cls].fields
        wanted = {}
        for item in about["fields"]:
            fact = field_facts(item)
            fact["type"] = schema.parse_type(fact["type"], enums)
            wanted[item["name"]] = fact
        got = {name: our_field_facts(item, enums) for name, item in fields.items()}
        assert got == wanted, cls
        internal = {i["name"] for i in about["fields"] if i.get("internal_only")}
        assert {n for n, i in fields.items() if i.flag == "internal"} == internal


def message_facts(about, enums):
    def type_of(text):
        return schema.parse_type(text, enums)

    params = []
    for param in about["params"]:
        given = [param["name"], type_of(param["type"])]
        if "default" in param:
            given.append(
                published_default(param["name"], param["type"], param["default"])
            )
        params.append(tuple(map(repr, given)))
    return {
        "params": params,
        "result": type_of(about["result"] or "void"),
        "async": about["async"],
        "session": about.get("session", True),
        "removed": about.get("state") == "removed",
        "internal": about.get("pool_internal", False),
    }


def our_message_facts(message):
    params = []
    for param in message.params:
        given = [param.name, param.type]
        if param.optional:
            given.append(param.default)
        params.append(tuple(map(repr, given)))
    return {
        "params": params,
        "result": message.result,
        "async": message.can_async,
        "session": message.needs_session,
        "removed": message.removed,
        "internal": message.internal,
    }


@needs_published
def test_messages_are_the_published_ones(ours, published):
    enums = {name: about["values"] for name, about in published["enums"].items()}
    for cls, about in published["classes"].items():
        wanted = {m["name"]: message_facts(m, enums) for m in about["messages"]}
        got = {n: our_message_facts(m) for n, m in ours.classes[cls].messages.items()}
        assert set(got) == set(wanted), cls
        for name, facts in wanted.items():
            assert got[name] == facts, f"{cls}.{name}"


@needs_published
def test_absent_features_answer_with_published_codes(published):
    codes = {code for _, code, _ in absent.RULES} | {"NOT_IMPLEMENTED"}
    assert codes - set(published["errors"]) == set()


def test_all_messages_are_listed(client, ours):
    methods = client.raw("system.listMethods")
    assert len(methods) == len(set(methods)) == 2258
    with_messages = {name for name, model in ours.classes.items() if model.messages}
    assert {name.partition(".")[0] for name in methods} == with_messages


def test_every_handler_belongs_to_a_message(ours):
    unknown = [name for name in HANDLERS if ours.message(name) is None]
    assert unknown == []


def sample(type_, client):
    """Return a value of a type; references name objects where there are some."""
    if type_.kind == "ref":
        try:
            return client.call(f"{type_.name}.get_all")[0]
        except (Refused, IndexError):
            return NULL
    if type_.kind == "option":
        return sample(type_.inner[0], client)
    value = schema.zero(type_)
    return str(value) if type_.kind in ("int", "datetime") else value


def test_no_message_without_behaviour_succeeds(local, ours):
    for model in ours.classes.values():
        for message in model.messages.values():
            if message.kind != "custom" or message.wire_name in HANDLERS:
                continue
            arguments = [sample(param.type, local) for param in message.params]
            if message.needs_session:
                arguments.insert(0, local.session)
            try:
                local.raw(message.wire_name, *arguments)
            except Refused:
                continue
            # What succeeds sets a field.
            assert message.name.startswith(("set_", "add_", "remove_")), message


def test_only_messages_about_what_is_never_there_are_not_implemented(local, ours):
    """What a caller can reach has an answer of its own; no host has these objects."""
    never = {"pool_patch", "pool_update", "host_patch", "network_sriov"}
    unanswered = set()
    for model in ours.classes.values():
        for message in model.messages.values():
            if message.kind != "custom" or message.internal or message.removed:
                continue
            if message.wire_name in HANDLERS or plain_setter(ours, message):
                continue
            if absent.refusal(message, ()).code == "NOT_IMPLEMENTED":
                unanswered.add(message.wire_name)
    left = {name for name in unanswered if name.partition(".")[0] not in never}
    assert left == NOT_DONE
    assert {name.partition(".")[0] for name in unanswered - left} == never


def test_a_feature_that_is_absent_says_which(client):
    network = client.call("network.get_all")[0]
    with pytest.raises(Refused) as caught:
        client.call("Cluster.pool_create", network, "corosync", 1.0, 1.0)
    assert caught.value.args[0] == ["LICENCE_RESTRICTION", "Corosync"]


def test_a_dead_reference_is_told_from_an_absent_feature(client):
    nowhere = "OpaqueRef:00000000-0000-0000-0000-000000000000"
    with pytest.raises(Refused) as caught:
        client.call("Cluster.pool_create", nowhere, "corosync", 1.0, 1.0)
    assert caught.value.args[0] == ["HANDLE_INVALID", "network", nowhere]


def test_removed_messages_say_so(client):
    with pytest.raises(Refused) as caught:
        client.call("VMPP.get_all")
    assert caught.value.args[0] == ["MESSAGE_REMOVED"]


def test_messages_between_hosts_are_refused_to_others(client):
    with pytest.raises(Refused) as caught:
        client.call("host.local_assert_healthy")
    assert caught.value.code == "INTERNAL_ERROR"
