# Shell functions shared by deploy/quickstart and tests/run. Sourced by bash, with `set -euo pipefail` in force.
#
# Packages come from Debian 12. A server package brings a system service with it; nothing here wants that service, so
# one that did not run before is not started, one that was not there before is not enabled, and no PostgreSQL cluster is
# made. What was there before stays as it was.

# Debian's own tools go before anything else on PATH: that is what the project is built and tested with.
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH"

txmsg_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
txmsg_policy=/usr/sbin/policy-rc.d
txmsg_policy_saved=/usr/sbin/policy-rc.d.txmsg-saved
txmsg_cluster_conf=/etc/postgresql-common/createcluster.conf
txmsg_cluster_saved=/etc/postgresql-common/createcluster.conf.txmsg-saved

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    txmsg_bold=$'\e[1m' txmsg_red=$'\e[31m' txmsg_plain=$'\e[0m'
else
    txmsg_bold='' txmsg_red='' txmsg_plain=''
fi

say() { printf '%s==> %s%s\n' "$txmsg_bold" "$*" "$txmsg_plain"; }
fail() {
    printf '%serror: %s%s\n' "$txmsg_red" "$*" "$txmsg_plain" >&2
    exit 1
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

# Packages of the sections named, one a line.
packages_of() {
    local section line want=no
    for section in "$@"; do
        want=no
        while IFS= read -r line; do
            line=${line%%#*}
            line=${line//[[:space:]]/}
            case $line in
            '') ;;
            "[$section]") want=yes ;;
            '['*) want=no ;;
            *) if [ $want = yes ]; then printf '%s\n' "$line"; fi ;;
            esac
        done <"$txmsg_top/deploy/packages.txt"
    done | sort -u
}

package_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Services that these packages bring and that do not run now (and among them those that are not even there), by the name
# that invoke-rc.d uses.
service_runs() {
    if [ -d /run/systemd/system ]; then
        systemctl --quiet is-active "$1" 2>/dev/null
        return
    fi
    case $1 in # not `service rabbitmq-server status`: it leaves an epmd behind
    postgresql) pg_lsclusters -h 2>/dev/null | grep -w online >/dev/null ;;
    rabbitmq-server) pgrep -x -u rabbitmq beam.smp >/dev/null 2>&1 ;;
    nginx | prometheus) pgrep -x "$1" >/dev/null 2>&1 ;;
    *) pgrep -x -u epmd "$1" >/dev/null 2>&1 ;;
    esac
}
idle_services() {
    local service
    for service in postgresql rabbitmq-server epmd nginx prometheus; do
        service_runs "$service" || printf '%s\n' "$service"
    done
}
new_services() {
    package_installed postgresql-common || printf 'postgresql\n'
    package_installed rabbitmq-server || printf 'rabbitmq-server\n'
    package_installed erlang-base || printf 'epmd\n'
    package_installed nginx || printf 'nginx\n'
    package_installed prometheus || printf 'prometheus\n'
}

# While packages are installed, policy-rc.d refuses the start of the services named; for all others the answer is what
# it was before. A guard left behind by a run that was killed is taken away first.
guard_on() {
    local services=$1
    guard_off
    if [ -x $txmsg_policy ]; then
        local code=0
        $txmsg_policy rabbitmq-server start >/dev/null 2>&1 || code=$?
        [ $code != 101 ] || return 0 # it refuses already
    fi
    if [ -e $txmsg_policy ]; then as_root mv $txmsg_policy $txmsg_policy_saved; fi
    as_root tee $txmsg_policy >/dev/null <<GUARD
#!/bin/sh
# txmsg: here only while its packages are installed
for service in $services; do
    case "\$1" in "\$service" | "\$service".* | "\$service"@*) exit 101 ;; esac
done
[ ! -x $txmsg_policy_saved ] || exec $txmsg_policy_saved "\$@"
exit 104
GUARD
    as_root chmod 755 $txmsg_policy
}
guard_off() {
    if [ -e $txmsg_policy ] && grep -q '^# txmsg: ' $txmsg_policy; then as_root rm -f $txmsg_policy; fi
    if [ -e $txmsg_policy_saved ]; then as_root mv $txmsg_policy_saved $txmsg_policy; fi
}

# The package postgresql-15 makes and enables a cluster "main" unless createcluster.conf says no. An explicit setting of
# the machine's owner stands.
clusters_off() {
    clusters_restore
    if grep -qE '^[[:space:]]*create_main_cluster' $txmsg_cluster_conf 2>/dev/null; then return 0; fi
    [ -e $txmsg_cluster_conf ] || return 0
    as_root cp -p $txmsg_cluster_conf $txmsg_cluster_saved
    printf '\ncreate_main_cluster = false\n' | as_root tee -a $txmsg_cluster_conf >/dev/null
}
clusters_restore() {
    if [ -e $txmsg_cluster_saved ]; then as_root mv $txmsg_cluster_saved $txmsg_cluster_conf; fi
}

# Package scripts enable the units that they bring; new ones are disabled again.
disable_units() {
    local service unit
    for service in "$@"; do
        for unit in "$service.service" "$service.socket"; do
            if command -v systemctl >/dev/null; then
                as_root systemctl --quiet disable "$unit" >/dev/null 2>&1 || true
            else
                as_root env DPKG_MAINTSCRIPT_PACKAGE=txmsg deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
            fi
        done
        if [ -e "/etc/init.d/$service" ]; then as_root update-rc.d "$service" disable >/dev/null 2>&1 || true; fi
    done
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 NEEDRESTART_SUSPEND=1 \
        apt-get install -y -q --no-upgrade --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" \
        >>"$txmsg_apt_log" 2>&1
}

# Installs what is missing of the sections named. Does nothing, and needs no rights, when all is there.
install_packages() {
    local package missing=() new idle rc=0
    for package in $(packages_of "$@"); do
        package_installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "packages: all there"
        return 0
    fi
    command -v apt-get >/dev/null || fail "this needs Debian 12; install by hand: ${missing[*]}"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "root or sudo is needed once, for: apt-get install ${missing[*]}"
        sudo -v || fail "root or sudo is needed once, for: apt-get install ${missing[*]}"
    fi
    say "packages: installing ${missing[*]}"
    new=$(new_services | tr '\n' ' ')
    idle=$(idle_services | tr '\n' ' ')
    txmsg_apt_log=$(mktemp)
    for package in "${missing[@]}"; do # package lists are fetched only when they do not know what is needed
        if [ -z "$(apt-cache madison "$package" 2>/dev/null)" ]; then
            as_root apt-get update -q >>"$txmsg_apt_log" 2>&1 || true
            break
        fi
    done
    (
        trap 'guard_off; clusters_restore' EXIT
        trap 'exit 130' INT TERM
        guard_on "$idle"
        install_missing
    ) || rc=$?
    # shellcheck disable=SC2086
    disable_units $new
    if [ $rc != 0 ]; then
        tail -n 25 "$txmsg_apt_log" >&2
        rm -f "$txmsg_apt_log"
        fail "the packages could not be installed"
    fi
    rm -f "$txmsg_apt_log"
}

# Uses `missing` of install_packages. Old package lists name files that are gone: fetch new ones once and try again.
install_missing() {
    local try
    for try in 1 2; do
        if package_installed postgresql-common || apt_install postgresql-common; then
            clusters_off
            if apt_install "${missing[@]}"; then return 0; fi
            clusters_restore
        fi
        [ $try = 2 ] || as_root apt-get update -q >>"$txmsg_apt_log" 2>&1 || true
    done
    return 1
}

# configure_build DIR [meson options...]: a new build directory is set up; in an old one only what differs is changed.
configure_build() {
    local dir=$1
    shift
    if [ -f "$dir/build.ninja" ]; then
        if [ $# -gt 0 ]; then meson configure "$dir" "$@" >/dev/null; fi
    else
        meson setup "$dir" "$txmsg_top" "$@" >"$dir.log" 2>&1 || {
            tail -n 30 "$dir.log" >&2
            return 1
        }
        rm -f "$dir.log"
    fi
}
