# What a Debian or Ubuntu machine lacks, for the scripts that prepare it: quickstart and tests/run read this file.
#
#   need PACKAGE...    installs those that are missing
#   need_python        sets $python to one that pydock runs on and can be built for, and installs it when there is none:
#                      the system's own first, which is there for services and is built for speed (one in somebody's home, as
#                      pyenv builds it, made starts a quarter slower)

install_packages() {
    if ! command -v apt-get > /dev/null; then
        echo "${0##*/}: no apt-get here: what Debian's packages $* hold must be there by other means" >&2
        return 0
    fi
    printf '\n\033[1m%s\033[0m\n' "Installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # A machine that has just been booted may be installing its updates: wait for them.
    apt-get update -qq -o DPkg::Lock::Timeout=300
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" > /dev/null
}

need() {
    for package in "$@"; do
        shift
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || set -- "$@" "$package"
    done
    [ $# -eq 0 ] || install_packages "$@"
}

pick_python() {
    for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && return 0
    done
    return 1
}

need_python() {
    pick_python || install_packages python3 python3-venv python3-dev
    pick_python || {
        echo "${0##*/}: Python 3.11 or later is needed, with venv (Ubuntu 22.04: apt-get install python3.11-venv python3.11-dev)" >&2
        exit 1
    }
    python=$(command -v "$python")
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        install_packages "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
}
