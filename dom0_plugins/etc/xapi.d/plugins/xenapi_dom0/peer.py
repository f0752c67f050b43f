# SPDX-License-Identifier: Apache-2.0
"""Send files to the dom0 of another host, as root over ssh.

Nothing ever asks a question: a key that is missing or a host that cannot be trusted is
one failure at once. A host that was never met is trusted and remembered, as ssh's
``accept-new`` does, which the ssh of current hosts does not know yet; one whose key is
another than remembered is refused.
"""
import collections
import ipaddress
import os
import re
import socket
import subprocess
import tempfile

from xenapi_dom0 import arguments, commands, failures, paths

SSH_FOLDER = "/root/.ssh"
KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
CONNECT_TIMEOUT = 10  # seconds
IDLE_TIMEOUT = 120  # seconds in which nothing comes or goes
# In the folder of the destination: what a cut transfer got, for the next one.
PARTIAL = ".partial"
_FILE_ERROR = 11  # rsync's exit code
_PERCENT = re.compile(rb"\s(\d{1,3})%\s")

# name: as a request gave it; port; key: a path, or None for the usual ones; strict:
# refuse a host that was never met
Peer = collections.namedtuple("Peer", "name port key strict")

ARGUMENTS = ("host", "ssh_port", "ssh_key", "ssh_host_keys")


def of_request(request):
    """Return the Peer that a request names.

    Arguments: ``host``, and where wanted ``ssh_port``, ``ssh_key`` (name of a file in
    ``/root/.ssh``) and ``ssh_host_keys`` (``accept-new`` or ``strict``).
    """
    name = arguments.host_name(request, "host")
    port = arguments.optional(request, "ssh_port", arguments.whole, 1, 65535)
    key = arguments.optional(request, "ssh_key", arguments.file_name)
    policy = arguments.optional(
        request, "ssh_host_keys", arguments.choice, ("accept-new", "strict")
    )
    if key is not None:
        key = os.path.join(paths.host_path(SSH_FOLDER), key)
        if not os.path.isfile(key):
            raise failures.Failure(
                failures.BAD_ARGUMENT, "ssh_key", "is no file in " + SSH_FOLDER
            )
    return Peer(name, port or 22, key, policy == "strict")


def is_here(name):
    """Say whether the host name or address ``name`` is one of this dom0's own."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError):
        return False  # ssh will say what is wrong with it
    shown = commands.run(["ip", "-o", "address", "show"]).out
    ours = re.findall(r"\sinet6? ([0-9a-f.:]+)", shown)
    return not {_plain(address) for address in found}.isdisjoint(
        {_plain(address) for address in ours}
    )


def _plain(address):
    return ipaddress.ip_address(address.split("%")[0])


def send(sources, folder, peer, report, fresh):
    """Copy files into ``folder`` of the peer's dom0, or of ours if it is we.

    A file has its name there only when it is whole. What a cut call got is kept in
    a folder beside it, from which the next call goes on.

    :param sources: a folder whose files are sent
    :param folder: absolute, as the peer sees it; its parent must be there
    :param report: callable(fraction)
    :param fresh: remove what else is in ``folder``
    """
    argv = [
        "rsync", "--dirs", "--times", "--omit-dir-times", "--perms", "--sparse",
        "--partial-dir=" + PARTIAL, "--info=progress2", "--outbuf=L",
        "--timeout=%d" % IDLE_TIMEOUT,
    ]
    if fresh:
        argv.append("--delete-before")
    here = is_here(peer.name)
    if here:
        # rsync would else start anew: between two local files it copies them whole.
        argv += ["--no-whole-file", sources + "/", paths.host_path(folder) + "/"]
    else:
        name = "[%s]" % peer.name if ":" in peer.name else peer.name
        shell = " ".join([commands.find("ssh")] + _options(peer))
        argv += ["--rsh=" + shell, sources + "/", "root@%s:%s/" % (name, folder)]
    code, said = _watched(argv, report, os.path.dirname(sources))
    if code:
        raise _explained("send to " + peer.name, code, said, peer, folder)


def remove(names, peer):
    """Remove folders of the peer's ``/images``; what is not there is fine.

    :param names: of a kind that a shell takes as they are, or with a ``*`` at the end
    """
    command = "rm -rf -- " + " ".join("/images/" + name for name in names)
    argv = ["ssh"] + _options(peer) + ["--", "root@" + peer.name, command]
    said = commands.run(argv, timeout=600, accept=range(256))
    if said.code:
        raise _explained("clean " + peer.name, said.code, said.err, peer, "/images")


def _options(peer):
    """Return the options for ssh; none of them holds a space."""
    folder = paths.host_path(SSH_FOLDER)
    known = os.path.join(folder, "known_hosts")
    keys = [peer.key] if peer.key else [os.path.join(folder, key) for key in KEYS]
    settings = [
        "BatchMode=yes",
        "ConnectTimeout=%d" % CONNECT_TIMEOUT,
        "ConnectionAttempts=1",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "IdentitiesOnly=yes",
        "PreferredAuthentications=publickey",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ControlPath=none",
        "LogLevel=ERROR",
        "UserKnownHostsFile=" + known,
        "StrictHostKeyChecking=" + ("no" if _is_new(peer, known) else "yes"),
    ]
    options = ["-x", "-p", str(peer.port)]
    for setting in settings:
        options += ["-o", setting]
    for key in keys:
        if os.path.isfile(key):
            options += ["-i", key]
    return options


def _is_new(peer, known):
    """Say whether the host may be trusted because it was never met."""
    if peer.strict:
        return False
    name = peer.name if peer.port == 22 else "[%s]:%d" % (peer.name, peer.port)
    for path in (known, paths.host_path("/etc/ssh/ssh_known_hosts")):
        if os.path.isfile(path):
            argv = ["ssh-keygen", "-F", name, "-f", path]
            if commands.run(argv, accept=(0, 1)).out.strip():
                return False
    return True


def _watched(argv, report, folder):
    """Run rsync, reporting its progress; return its exit code and what it complained.

    Its complaints go to a file without a name in ``folder``, so that no pipe can
    fill up.
    """
    with tempfile.TemporaryFile(dir=folder) as errors:
        process = commands.start(argv, stdout=subprocess.PIPE, stderr=errors)
        try:
            left = b""
            while True:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                lines = re.split(rb"[\r\n]", left[-1000:] + data)
                left = lines.pop()
                for line in lines:
                    found = _PERCENT.search(line)
                    if found:
                        report(int(found.group(1)) / 100.0)
            code = process.wait()
        finally:
            commands.stop(process)
        errors.seek(0)
        return code, errors.read(65536).decode("utf-8", "replace")


def _explained(doing, code, said, peer, folder):
    """Return the Failure that says in words what ssh or rsync complained about."""
    said = said.strip()
    reason = "%s (exit code %d)" % (said[-commands.MAX_REASON:] or "no reason", code)
    if "HOST IDENTIFICATION HAS CHANGED" in said or "verification failed" in said:
        return failures.Failure(
            failures.NOT_PERMITTED, doing,
            "the ssh key of host %s is not the one that is known here; if it was "
            "installed anew, run ssh-keygen -R on this host: %s" % (peer.name, reason),
        )
    if "Permission denied (" in said or "Too many authentication" in said:
        return failures.Failure(
            failures.NOT_PERMITTED, doing,
            "root of host %s does not accept the ssh key of this host's root; add "
            "its public key to %s/authorized_keys there: %s"
            % (peer.name, SSH_FOLDER, reason),
        )
    if "No space left" in said or "Disk quota exceeded" in said:
        return failures.Failure(
            failures.NO_SPACE, "%s on host %s" % (folder, peer.name)
        )
    if re.search(r"mkdir .* failed: (No such|Not a)", said):
        return failures.Failure(
            failures.NOT_FOUND,
            "the folder %s on host %s; make it a link to a folder on the SR: %s"
            % (os.path.dirname(folder), peer.name, reason),
        )
    if code == _FILE_ERROR and not said:
        # The other side's own words do not always make it through.
        reason = "a file could not be written there; is %s full?" % folder
    if code == 255:
        reason = "ssh did not get in: " + reason
    return failures.Failure(failures.COMMAND_FAILED, doing, reason)
