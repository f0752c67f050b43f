# SPDX-License-Identifier: Apache-2.0
"""What the plugins in a folder can do, read from the plugins themselves.

So a host tells what it has: a plugin that was not copied is not told of.
"""
import ast
import os

_FIRST_LINE = b"#!/usr/bin/python3"
_MAX_BYTES = 256 * 1024  # of a plugin; others are not ours


def of_folder(folder):
    """Return ``<plugin>.<function>`` of every plugin of ours in ``folder``, sorted."""
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.endswith(".py") or not os.path.isfile(path):
            continue  # the twin of one without the suffix
        with open(path, "rb") as source:
            text = source.read(_MAX_BYTES)
        if text.startswith(_FIRST_LINE) and b"serve.run(" in text:
            found += ["%s.%s" % (name, function) for function in _functions(text)]
    return found


def _functions(text):
    """Return the names of functions that a plugin's text hands to serve.run."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []  # it answers nothing, so it has no function
    tables = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            tables[getattr(node.targets[0], "id", "")] = node.value
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "run"
            and getattr(getattr(node.func, "value", None), "id", "") == "serve"
        ):
            table = node.args[0]
            if isinstance(table, ast.Name):
                table = tables.get(table.id)
            if isinstance(table, ast.Dict):
                return sorted(ast.literal_eval(key) for key in table.keys)
    return []
