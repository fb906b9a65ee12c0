# shellcheck shell=bash
# Sourced by the scripts that need programs of the distribution.

# need_packages PACKAGE[:PROGRAM]...: returns once every PROGRAM (default: the
# package's name) is on the PATH. Installs what is missing by apt-get when
# this is Debian or Ubuntu and root is at hand; else says what to install.
need_packages() {
    local spec missing=() sudo=()
    for spec in "$@"; do
        command -v "${spec#*:}" >/dev/null || missing+=("${spec%%:*}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then sudo=(sudo -n); fi
    if ! command -v apt-get >/dev/null; then
        echo "${0##*/}: please install what Debian calls: ${missing[*]}" >&2
        exit 1
    fi
    if ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
        echo "${0##*/}: please run: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "${0##*/}: installing ${missing[*]}" >&2
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y
        --no-install-recommends "${missing[@]}")
    # The package lists of a fresh container are empty or stale: refresh them
    # only when the first try fails, for that costs seconds.
    "${sudo[@]}" "${install[@]}" >/dev/null 2>&1 || {
        "${sudo[@]}" apt-get update -qq >&2
        "${sudo[@]}" "${install[@]}" >/dev/null
    }
}

# need_unpacked PACKAGE FILE: returns once FILE of PACKAGE is in target/packages/PACKAGE. For what would start a service if it were
# installed, or is used beside what this host has: nothing of the host is changed.
need_unpacked() {
    local dir=$PWD/target/packages/$1
    [[ -e $dir/$2 ]] && return
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "${0##*/}: please put $2 of what Debian calls $1 into $dir" >&2
        exit 1
    fi
    echo "${0##*/}: unpacking $1" >&2
    mkdir -p "$dir"
    (
        cd "$dir" || exit
        apt-get download -qq "$1" >/dev/null 2>&1 || {
            as_root apt-get update -qq >&2
            apt-get download -qq "$1" >/dev/null
        }
        dpkg-deb -x "$1"_*.deb .
        rm -- "$1"_*.deb
    )
}

# as_root COMMAND...: runs it as root: at once, or by sudo where that asks nothing.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# need_cargo: returns once a Rust toolchain that can build this, and a linker for it, are there.
need_cargo() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if [[ -d $HOME/.cargo/bin ]]; then PATH=$PATH:$HOME/.cargo/bin; fi
    found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
    if [[ -z $found ]] || [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) != "$wanted" ]]; then
        echo "${0##*/}: please install Rust $wanted or newer (https://rustup.rs); found: ${found:-none}" >&2
        exit 1
    fi
    need_packages build-essential:cc
}
