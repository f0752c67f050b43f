#!/bin/sh
# Install, by name, the distribution's packages that are missing.
#
#   ./system-packages.sh LIST...      LIST: a file with one package a line
#
# With apt and dpkg only; elsewhere it says what to install and ends well, so that
# `make test` still shows what is missing as skipped tests.
set -eu

wanted=$(cat "$@" | sed 's/#.*//' | tr -s ' \n' ' ')

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "This is no Debian: please install what corresponds to: $wanted"
    exit 0
fi

missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if [ -n "$as_root" ] && ! command -v sudo >/dev/null; then
    echo "Please install as root:$missing" >&2
    exit 1
fi

echo "Installing:$missing"
$as_root apt-get update -qq
# Services that a package would start are not used: the demo starts its own.
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
