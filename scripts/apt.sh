# shellcheck shell=bash
# Sourced by the other scripts: system packages, where this user may install them.

# Print the lines to standard error and stop.
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Whether this user can install Debian packages without being asked anything.
can_apt() {
    [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null
}

# Install Debian packages, with little output.
apt_install() {
    echo "Installing $* with apt-get ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need_apt PROBLEM PACKAGE...: install the packages, or stop and say how to.
need_apt() {
    local problem="$1"
    shift
    if can_apt; then
        apt_install "$@"
    elif command -v apt-get >/dev/null; then
        fail "$problem. Install what is needed and try again:" "    sudo apt-get install $*"
    else
        fail "$problem: $* (names of the Debian packages)." \
            "Install them with your system's package manager and try again."
    fi
}
