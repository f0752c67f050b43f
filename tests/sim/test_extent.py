# SPDX-License-Identifier: Apache-2.0
"""The table of what is implemented says what the host says."""

import pytest

from tests.sim.clients import NULL, Refused
from xenapi_driver.sim import extent, schema

MODEL = schema.load()
PLAIN = {
    "string": "",
    "secret-string": "",
    "int": 1,
    "float": 1.0,
    "bool": False,
    "set": [],
    "map": {},
    "record": {},
    "datetime": "19700101T00:00:00Z",
    "option": "",
}
UNANSWERED = [
    answer
    for cls in extent.extent()
    for answer in cls.answers
    if answer.kind != "implemented"
]


def example(client, type_):
    """Return an argument of a type: an object that is there, if there is one."""
    if type_.kind == "ref":
        if type_.name not in MODEL.classes:
            return NULL
        try:
            return next(iter(client.call(f"{type_.name}.get_all")), NULL)
        except Refused:
            return NULL
    if type_.kind == "enum":
        return type_.values[0]
    return PLAIN[type_.kind]


def test_every_message_of_the_model_is_counted_once():
    classes = extent.extent()
    names = [answer.name for cls in classes for answer in cls.answers]
    model = [
        message.wire_name
        for cls in MODEL.classes.values()
        for message in cls.messages.values()
    ]
    assert sorted(names) == sorted(model)
    assert sum(extent.totals(classes).values()) == len(model)


@pytest.mark.parametrize("answer", UNANSWERED, ids=lambda answer: answer.name)
def test_host_answers_the_code(local, answer):
    message = MODEL.message(answer.name)
    words = [example(local, param.type) for param in message.params]
    session = [local.session] if message.needs_session else []
    with pytest.raises(Refused) as refused:
        local.raw(answer.name, *session, *words)
    allowed = {answer.code}
    if NULL in words:
        # There is no object to ask it of.
        allowed.add("HANDLE_INVALID")
    if message.internal:
        allowed.add("INTERNAL_ERROR")
    assert refused.value.code in allowed


def test_command_prints_classes_and_messages(capsys):
    assert extent.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MODEL.classes) + 1
    assert extent.main(["VM"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MODEL.classes["VM"].messages)
    assert any(line.split() == ["VM.start", "implemented"] for line in lines)
    assert extent.main(["Vm"]) == 2
