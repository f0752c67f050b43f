#!/bin/bash
# Run test suites and the checks of style, types and documentation, all of them
# even when one fails; end with a plain summary. `make test` calls it.
#
#   BIN=.venv/bin ./run-tests.sh SUITE...     SUITE: a folder below tests/
#
# Tests run in two processes, a file in one of them; PROCESSES=4 for more.
set -uo pipefail
cd "$(dirname "$0")"
bin=${BIN:-.venv/bin}
failed=()
rows=()

part() {  # NAME COMMAND...: run it, remember how it went
    local name=$1 began=$SECONDS state=ok
    shift
    echo "== $name"
    "$@" || { state=FAILED; failed+=("$name"); }
    rows+=("$(printf '%-8s %-10s %3d s' "$state" "$name" $((SECONDS - began)))")
}

style() {
    local bad=0
    "$bin/ruff" check --quiet . || bad=1
    "$bin/flake8" || bad=1
    return $bad
}

# One junit file, whose counts the closing line is made of.
mkdir -p build
rm -f build/tests.xml
paths=(tests/test_architecture.py)
for suite in "$@"; do
    [ -d "tests/$suite" ] && paths+=("tests/$suite")
done
part pep8 style
part mypy "$bin/mypy"
part docs "$bin/sphinx-build" -q -W --keep-going -b html doc/source doc/build/html
part tests "$bin/python" -m pytest -q -n "${PROCESSES:-2}" --dist loadfile --durations=5 --junit-xml=build/tests.xml "${paths[@]}"

echo
printf '%s\n' "${rows[@]}"
counts=$("$bin/python" - build/tests.xml 2>/dev/null <<'PY'
import sys
import xml.etree.ElementTree as etree

suite = etree.parse(sys.argv[1]).getroot().find("testsuite")
bad = int(suite.get("failures")) + int(suite.get("errors"))
skipped = int(suite.get("skipped"))
print(int(suite.get("tests")) - bad - skipped, bad, skipped)
PY
) || counts="0 1 0"
read -r passed bad skipped <<<"$counts"
if [ ${#failed[@]} -gt 0 ]; then
    echo "Failed: ${failed[*]}"
    [ "$bad" -gt 0 ] || bad=${#failed[@]}
fi
echo "$passed passed, $bad failed, $skipped skipped"
[ ${#failed[@]} -eq 0 ]
