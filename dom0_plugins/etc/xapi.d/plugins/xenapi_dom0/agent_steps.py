# SPDX-License-Identifier: Apache-2.0
"""What an agent is asked to do: each question with its arguments, and their order.

A fresh guest is asked for its agent's version, which it answers once the agent runs;
then it gets files and the password, then its network, over which it updates itself.
"""
import re

from xenapi_dom0 import agent, arguments, failures

MAX_FILES = 16
FIRST_BOOT = ("dom_id", "vm_uuid", "version_timeout", "timeout", "files", "pub",
              "enc_pass", "resetnetwork", "agentupdate")


def named(request):
    """Return the name of the question's record, where the caller chose one."""
    return arguments.optional(request, "id", arguments.uuid)


def version_question(request):
    """Return the question for the agent's version."""
    return agent.version(named(request))


def key_question(request):
    """Return the question with our public key; text, for old agents take no number."""
    pub = arguments.text(request, "pub", 400)
    if re.match("[0-9]+\\Z", pub, re.ASCII) is None:
        raise failures.Failure(failures.BAD_ARGUMENT, "pub", "is no decimal number")
    return agent.Question("key_init", "keyinit", pub, named(request))


def reset_question(request):
    """Return the question to configure the network anew."""
    return agent.Question("resetnetwork", "resetnetwork", "", named(request))


def password_question(request):
    """Return the question with the encrypted password."""
    secret = agent.encoded(request, "enc_pass")
    return agent.Question("password", "password", secret, named(request))


def update_question(request):
    """Return the question with the agent's next version, one text for old agents."""
    url = arguments.url(request, "url")
    if "," in url:
        raise failures.Failure(failures.BAD_ARGUMENT, "url", "has a comma")
    md5sum = arguments.text(request, "md5sum", 32)
    if re.match("[0-9a-fA-F]{32}\\Z", md5sum) is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "md5sum", "is no MD5 in hexadecimal"
        )
    value = "%s,%s" % (url, md5sum)
    return agent.Question("agentupdate", "agentupdate", value, named(request))


def planned(request, patience, seconds):
    """Return the steps in their order: name and what to do with an Agent.

    :param patience: seconds in which the agent must have started; None: it has
    :param seconds: for each other step
    """
    arguments.only(request, FIRST_BOOT)
    steps = []

    def ask_for(question, good=agent.DONE):
        steps.append(
            (question.called, lambda guest: guest.ask(question, seconds, good))
        )

    if patience is not None:
        steps.append(("version", lambda guest: guest.await_version(patience)))
    for file in _files(request):
        steps.append(
            ("inject_file", lambda guest, file=file: guest.inject(file, seconds))
        )
    if request.get("pub") is not None:
        ask_for(key_question(request), agent.KEY_EXCHANGED)
    if request.get("enc_pass") is not None:
        ask_for(password_question(request))
    if arguments.flag(request, "resetnetwork", False):
        ask_for(reset_question(request), agent.NETWORK_RESET)
    update = request.get("agentupdate")
    if update is not None:
        ask_for(update_question(_members(update, "agentupdate", ("url", "md5sum"))))
    if not steps:
        raise failures.Failure(failures.BAD_ARGUMENT, "request", "asks for no step")
    return steps


def carried_out(guest, steps):
    """Return what became of each step."""
    told, useless = [], False
    for name, step in steps:
        if useless:
            told.append({"name": name, "skipped": True})
            continue
        try:
            told.append({"name": name, "message": step(guest)})
        except failures.Failure as exc:
            told.append({"name": name, "failure": [exc.code] + exc.params})
            useless = name == "version" or exc.code == failures.AGENT_REBOOTED
    return told


def _files(request):
    """Return the Files that go into the guest."""
    if request.get("files") is None:
        return []
    listed = arguments.listed(request, "files", MAX_FILES)
    names = ("b64_path", "b64_contents")
    return [agent.File(_members(file, "files", names)) for file in listed]


def _members(value, name, known):
    """Return an object inside the request, none of whose members is unknown."""
    if not isinstance(value, dict):
        raise failures.Failure(failures.BAD_ARGUMENT, name, "holds what is no object")
    arguments.only(value, known)
    return value
