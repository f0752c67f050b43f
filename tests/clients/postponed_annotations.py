# SPDX-License-Identifier: Apache-2.0
"""Compile ``async_xenapi`` with annotations that are not evaluated.

async-xenapi 1.0.5 names a class in an annotation before the class statement, which
Python looks up at once before 3.14 and leaves alone since. Where only an older Python
is at hand, its environment imports this module at start-up: the client's files stay
as they were published.
"""

import __future__

import sys
from importlib.machinery import FileFinder, SourceFileLoader

PACKAGE = "async_xenapi"


class _Loader(SourceFileLoader):
    def source_to_code(self, data, path, *, _optimize=-1):
        return compile(
            data,
            path,
            "exec",
            flags=__future__.annotations.compiler_flag,
            dont_inherit=True,
            optimize=_optimize,
        )

    def get_code(self, fullname):
        # Past the cache of compiled files, which may hold the other kind.
        return self.source_to_code(
            self.get_data(self.path), self.path, _optimize=sys.flags.optimize
        )


class _Finder:
    """Finds the package, and leaves every other one to those that come after."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != PACKAGE:
            return None
        for folder in sys.path if path is None else path:
            spec = FileFinder(folder, (_Loader, [".py"])).find_spec(name)
            if spec is not None:
                return spec
        return None


sys.meta_path.insert(0, _Finder)
