# SPDX-License-Identifier: Apache-2.0
"""Filter files: which commands, word for word, somebody may have run.

A line of a filter file is one of these; ``#`` begins a comment line, and a line that
begins with a blank goes on with the one before it::

    kind NAME = REGEX            what one whole word of that kind looks like
    group NAME = TEMPLATE        a piece of templates, also of groups below it
    command TEMPLATE [< INPUT]   a command that may run, and what it may be fed
    input NAME = TEMPLATE        a line that this input may have
    longest NAME = NUMBER        characters of a line of this input, otherwise 1000
    forbid TEMPLATE              a command that may not run, whatever else says so

A template's words stand for themselves; ``<NAME>`` stands for a word of a kind (also
within a word: ``tag=<number>``) or, alone, for a group; ``[ ... ]`` may be there or
not, ``( a | b )`` is one of the two, and ``( ... )*`` any number of them, also none.

Kinds, groups and inputs that have several lines may be any of them. What no line allows
is refused, so an option that nobody thought of is, too.
"""
import re

from xenapi_dom0 import failures

MAX_WORDS = 2048
# Characters of a fed line. iptables-restore reads 10239 at a time and ipset fewer: the
# rest of a longer line, also of a comment, is the next line to them.
LONGEST = 1000
# Of a command or of a fed line: nothing invisible, whose meaning programs differ in.
_PLAIN = re.compile(r"[\x20-\x7e]*\Z")
# As the programs read their input: no escapes, a quotation is a whole word.
_INPUT_WORD = re.compile(r'[ \t]*(?:"([^"\\]*)"|([^\s"\'\\]+))(?=[ \t]|\Z)')
_TOKEN = re.compile(r"\)\*|[()\[\]|]|[^\s()\[\]|]+")
_LINE = re.compile(r"(kind|group|input|longest)\s+([a-z0-9-]+)\s*=\s*(.+)\Z")


class FilterError(Exception):
    """A filter file has a line that is none."""


# A template is a tree of these. ``ends`` takes the positions in the words at which
# the node may begin and returns those at which it may end: no way is tried twice, so
# nobody can make up words that take long.


class _Word:
    def __init__(self, pattern):
        self._pattern = "(?:%s)\\Z" % pattern

    def ends(self, words, starts):
        # Compiled (and kept by re) only when needed: most calls are about one program.
        return {
            start + 1 for start in starts
            if start < len(words) and re.match(self._pattern, words[start])
        }


class _Literals:
    """One word out of several; what a choice of plain words becomes."""

    def __init__(self, literals):
        self._literals = frozenset(literals)

    def ends(self, words, starts):
        return {
            start + 1 for start in starts
            if start < len(words) and words[start] in self._literals
        }


class _Sequence:
    def __init__(self, nodes):
        self._nodes = nodes

    def ends(self, words, starts):
        for node in self._nodes:
            if not starts:
                break
            starts = node.ends(words, starts)
        return starts


class _Choice:
    def __init__(self, nodes):
        self._nodes = nodes

    def ends(self, words, starts):
        return set().union(*[node.ends(words, starts) for node in self._nodes])


class _Optional:
    def __init__(self, node):
        self._node = node

    def ends(self, words, starts):
        return starts | self._node.ends(words, starts)


class _Repeated:
    def __init__(self, node):
        self._node = node

    def ends(self, words, starts):
        found = set(starts)
        fresh = found
        while fresh:
            fresh = self._node.ends(words, fresh) - found
            found |= fresh
        return found


class _Rule:
    def __init__(self, node, source=None):
        self._node = node
        self.input = source

    def allows(self, words):
        return len(words) in self._node.ends(words, {0})


class Filter:
    """What all filter files that were read say together."""

    def __init__(self):
        self._kinds = {}
        self._groups = {}
        self._used = {}  # groups in templates that are read
        self._commands = {}
        self._forbidden = {}
        self._inputs = {}
        self._longest = {}
        self.templates = []  # of the commands, as they were written

    def programs(self):
        """Return the names of all programs that some command starts."""
        return sorted(self._commands)

    def read(self, text):
        """Add what the text of a filter file says; all of it or nothing.

        :raises FilterError: names the line
        """
        draft = Filter()
        draft.__dict__.update(
            (name, _copy(value)) for name, value in self.__dict__.items()
        )
        lines = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and lines:
                lines[-1] = (lines[-1][0], lines[-1][1] + " " + line.strip())
            else:
                lines.append((number, line.strip()))
        # Kinds first, then groups: a file may be in the order in which it reads best.
        order = {"kind": 0, "group": 1}
        for number, line in sorted(
            lines, key=lambda item: (order.get(item[1].split()[0], 2), item[0])
        ):
            try:
                draft._take(line)
            except (FilterError, re.error) as exc:
                raise FilterError("line %d: %s" % (number, exc)) from exc
        for rules in draft._commands.values():
            for rule in rules:
                if rule.input is not None and rule.input not in draft._inputs:
                    raise FilterError("there is no input %s" % rule.input)
        self.__dict__.update(draft.__dict__)

    def check(self, argv, data=None):
        """Return when the command may run and may be fed ``data``, a text.

        :raises Failure: NOT_PERMITTED; it repeats nothing but a program's name
        """
        program = argv[0] if argv and argv[0] in self._commands else None
        if program is None:
            raise _refusal("this command", "no filter has a command of its name")
        if len(argv) > MAX_WORDS or not all(map(_PLAIN.match, argv)):
            raise _refusal(program, "it has too many words or invisible characters")
        if any(rule.allows(argv) for rule in self._forbidden.get(program, ())):
            raise _refusal(program, "a filter of this host forbids it")
        rules = [rule for rule in self._commands[program] if rule.allows(argv)]
        if not rules:
            raise _refusal(program, "no filter has a command with these words")
        if data is None:
            return
        sources = {rule.input for rule in rules if rule.input is not None}
        if not sources:
            raise _refusal(program, "its filter has no input for it")
        for number, line in enumerate(data.split("\n"), 1):
            reasons = [self._wrong(line, source) for source in sorted(sources)]
            if None not in reasons:
                raise _refusal(
                    program, "line %d of its input %s" % (number, reasons[0])
                )

    def _wrong(self, line, source):
        """Return what is wrong with a line of an input; None: nothing."""
        if len(line) > self._longest.get(source, LONGEST):
            return "is too long"
        if not _PLAIN.match(line.replace("\t", " ")):
            return "has other than visible ASCII characters"
        if not line.strip(" \t") or line.startswith("#"):
            return None
        words = split(line)
        if words is None:
            return "cannot be split into words for certain"
        if any(rule.allows(words) for rule in self._inputs[source]):
            return None
        return "is none that a filter has"

    def _take(self, line):
        match = _LINE.match(line)
        if match and match.group(1) == "kind":
            pattern = re.compile(match.group(3)).pattern
            self._kinds.setdefault(match.group(2), []).append(pattern)
        elif match and match.group(1) == "longest":
            if not match.group(3).isdigit():
                raise FilterError("has no number")
            self._longest[match.group(2)] = int(match.group(3))
        elif match and match.group(1) == "group":
            node = self._template(match.group(3))
            if match.group(2) in self._used:
                raise FilterError("adds to a group that is used already")
            self._groups.setdefault(match.group(2), []).append(node)
        elif match:
            rule = _Rule(self._template(match.group(3)))
            self._inputs.setdefault(match.group(2), []).append(rule)
        elif line.startswith("command "):
            template, _sign, source = line[len("command "):].partition(" < ")
            rule = _Rule(self._template(template), source.strip() or None)
            self._commands.setdefault(_program(template), []).append(rule)
            self.templates.append(line[len("command "):])
        elif line.startswith("forbid "):
            template = line[len("forbid "):]
            rule = _Rule(self._template(template))
            self._forbidden.setdefault(_program(template), []).append(rule)
        else:
            raise FilterError("is no kind, group, command, input or forbid")

    def _template(self, text):
        tokens = _TOKEN.findall(text)
        node = self._choice(tokens, None)
        if tokens:
            raise FilterError("has a bracket too many")
        return node

    def _choice(self, tokens, closing):
        """Take tokens up to the closing bracket off the list; return their node."""
        branches = [[]]
        while tokens and tokens[0] not in (")", ")*", "]"):
            token = tokens.pop(0)
            if token == "|":
                branches.append([])
            elif token in ("(", "["):
                inner = self._choice(tokens, token)
                closed = tokens.pop(0) if tokens else ""
                if (token == "[") != (closed == "]") or not closed:
                    raise FilterError("has a bracket that is not closed")
                kinds = {"]": _Optional, ")*": _Repeated}
                branches[-1].append(kinds[closed](inner) if closed in kinds else inner)
            else:
                branches[-1].append(token)
        if closing is None and len(branches) > 1:
            raise FilterError("has a | outside of brackets")
        return self._branches(branches)

    def _branches(self, branches):
        literals = [
            branch[0] for branch in branches
            if len(branch) == 1 and isinstance(branch[0], str) and "<" not in branch[0]
        ]
        nodes = [
            _Sequence([self._node(part) for part in branch]) for branch in branches
            if not (len(branch) == 1 and branch[0] in literals)
        ]
        if literals:
            nodes.append(_Literals(literals))
        return nodes[0] if len(nodes) == 1 else _Choice(nodes)

    def _node(self, part):
        if not isinstance(part, str):
            return part
        alone = re.match(r"<([a-z0-9-]+)>\Z", part)
        if alone and alone.group(1) in self._groups:
            self._used[alone.group(1)] = True
            return _Choice(self._groups[alone.group(1)])
        if "<" not in part:
            return _Literals([part])
        pattern = ""
        for literal, kind in re.findall(r"([^<]*)(?:<([a-z0-9-]+)>)?", part):
            pattern += re.escape(literal)
            if kind and kind not in self._kinds:
                raise FilterError("knows no kind or group " + kind)
            pattern += "(?:%s)" % "|".join(self._kinds[kind]) if kind else ""
        return _Word(pattern)


def split(line):
    """Return a line's words; None where programs may see others than we do."""
    words = []
    position = 0
    line = line.rstrip(" \t")
    while position < len(line):
        match = _INPUT_WORD.match(line, position)
        if match is None or len(words) > MAX_WORDS:
            return None
        words.append(match.group(2) if match.group(1) is None else match.group(1))
        position = match.end()
    return words


def _program(template):
    program = template.split()[0] if template.split() else ""
    if not re.match(r"[a-z0-9-]+\Z", program):
        raise FilterError("does not begin with the name of one program")
    return program


def _copy(value):
    if isinstance(value, dict):
        return {
            key: list(held) if isinstance(held, list) else held
            for key, held in value.items()
        }
    return list(value)


def _refusal(program, reason):
    return failures.Failure(failures.NOT_PERMITTED, program, reason)
