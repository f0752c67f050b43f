#!/bin/sh
# Install, by name, the distribution's packages that are missing.
#
#   ./system-packages.sh LIST...      LIST: a file with one package a line
#
# A line `unpack:NAME` has the package unpacked below build/unpacked/NAME instead: its
# programs can be used without the services that come with it.
#
# With apt and dpkg only; elsewhere it says what to install and ends well, so that
# `make test` still shows what is missing as skipped tests.
set -eu

unpack_into=$(dirname "$0")/build/unpacked
lines=$(cat "$@" | sed 's/#.*//' | tr -s ' \n' ' ')
wanted=
unpacked=
for line in $lines; do
    case $line in
    unpack:*) unpacked="$unpacked ${line#unpack:}" ;;
    *) wanted="$wanted $line" ;;
    esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "This is no Debian: please install what corresponds to:$wanted$unpacked"
    exit 0
fi

missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
to_unpack=
for package in $unpacked; do
    [ -d "$unpack_into/$package" ] || to_unpack="$to_unpack $package"
done
[ -n "$missing$to_unpack" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if [ -n "$missing" ] && [ -n "$as_root" ] && ! command -v sudo >/dev/null; then
    echo "Please install as root:$missing" >&2
    exit 1
fi

if [ -n "$missing" ]; then
    echo "Installing:$missing"
    $as_root apt-get update -qq
    # Services that a package would start are not used: the demo starts its own.
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# Unpacked aside and then renamed: a folder of that name is whole.
for package in $to_unpack; do
    echo "Unpacking: $package"
    mkdir -p "$unpack_into"
    aside=$(mktemp -d "$unpack_into/.XXXXXX")
    # As ourselves, for apt's own user may not write there.
    download() {
        (cd "$aside" && apt-get -o APT::Sandbox::User=root download -qq "$package")
    }
    download || { $as_root apt-get update -qq && download; }
    dpkg-deb --extract "$aside"/*.deb "$aside/files"
    mv -T "$aside/files" "$unpack_into/$package"
    rm -r "$aside"
done
