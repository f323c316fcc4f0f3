#!/bin/bash
# Runs inside the container that nspawn.sh boots, with systemd as its first process: the package is installed, and the gateway
# started, reloaded, upgraded, hung and stopped, all of it under load.
set -uo pipefail
url=http://127.0.0.1:8080
failed=0

say() { echo "== $*"; }
check() { # check WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then echo "ok   $what"; else
        echo "FAIL $what"
        failed=1
    fi
}
# Waits for a command to succeed, for at most half a minute.
eventually() {
    local tries
    for tries in {1..300}; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}
main_pid() { systemctl show --property MainPID --value frontdesk; }
restarts() { systemctl show --property NRestarts --value frontdesk; }
answers() { [[ $(curl -s --max-time 5 $url/) == "$1" ]]; }
is_pid_other_than() { local pid; pid=$(main_pid) && [[ $pid != 0 && $pid != "$1" ]]; }
no_errors() { # no_errors FILE: wrk names errors only if there are some
    grep -q 'Requests/sec' "$1" && ! grep -Eq 'Socket errors|Non-2xx' "$1"
}

say "install"
check "the package installs" dpkg -i /frontdesk.deb
check "the user is there" getent passwd frontdesk
check "the shipped configuration is good" frontdesk check -c /etc/frontdesk/frontdesk.yaml
check "the manual is there" test -s /usr/share/man/man1/frontdesk.1.gz
check "the unit is well-formed" systemd-analyze verify frontdesk.service
exposure=$(systemd-analyze security --no-pager frontdesk.service | sed -n 's/.*Overall exposure level for frontdesk.service: \([0-9.]*\).*/\1/p')
check "it is shut in: $exposure is at most 1.5" awk "BEGIN { exit !($exposure <= 1.5) }"

cat >/etc/frontdesk/frontdesk.yaml <<'YAML'
listeners: [{ bind: 127.0.0.1:8080 }]
admin: { bind: "unix:/run/frontdesk/admin.sock" }
routes: [{ path: /*, respond: { body: one } }]
YAML
mkdir -p /etc/systemd/system/frontdesk.service.d
printf '[Service]\nWatchdogSec=2s\n' >/etc/systemd/system/frontdesk.service.d/test.conf
systemctl daemon-reload

say "start"
check "it starts, and serves once that is said" systemctl start frontdesk
check "the first answer" answers one

say "reload and upgrade under load"
wrk -t1 -c32 -d20s $url/ >/tmp/wrk.kept 2>&1 &
load=$!
wrk -t1 -c8 -d20s -H 'Connection: close' $url/ >/tmp/wrk.fresh 2>&1 &
fresh=$!
sed -i 's/body: one/body: two/' /etc/frontdesk/frontdesk.yaml
check "a reload" systemctl reload frontdesk
check "the new answer" answers two
sed -i 's/body: two/bdy: three/' /etc/frontdesk/frontdesk.yaml
check "a reload of a bad file fails" bash -c '! systemctl reload frontdesk 2>/dev/null'
check "the old answer goes on" answers two
sed -i 's/bdy: three/body: three/' /etc/frontdesk/frontdesk.yaml
before=$(main_pid)
check "an upgrade" frontdesk upgrade
check "systemd follows to the new process" eventually is_pid_other_than "$before"
check "the newest answer" answers three
before=$(main_pid)
check "an upgrade by installing the package again" dpkg -i /frontdesk.deb
check "systemd follows again" eventually is_pid_other_than "$before"
before=$(main_pid)
systemctl kill --signal=USR2 --kill-whom=main frontdesk
check "an upgrade by a signal" eventually is_pid_other_than "$before"
check "systemd has restarted nothing" test "$(restarts)" = 0
wait "$load" "$fresh"
check "no client of a kept connection has felt it" no_errors /tmp/wrk.kept
check "no client of a new connection has felt it" no_errors /tmp/wrk.fresh

say "the watchdog"
hung=$(main_pid)
systemctl kill --signal=STOP --kill-whom=main frontdesk
check "a process that hangs is replaced" eventually is_pid_other_than "$hung"
check "and another serves" eventually answers three
check "by systemd" test "$(restarts)" -ge 1

say "kill -9"
killed=$(main_pid)
systemctl kill --signal=KILL --kill-whom=main frontdesk
check "a process that is gone is replaced" eventually is_pid_other_than "$killed"
check "and another serves" eventually answers three

say "stop"
wrk -t1 -c8 -d3s $url/ >/dev/null 2>&1 &
began=$(date +%s%N)
check "it stops" systemctl stop frontdesk
took=$((($(date +%s%N) - began) / 1000000))
check "in $took ms" test "$took" -lt 10000
check "and has not failed" bash -c '[[ $(systemctl show --property Result --value frontdesk) == success ]]'

say "remove"
check "the package goes" dpkg -r frontdesk
check "the configuration stays" test -s /etc/frontdesk/frontdesk.yaml
check "unless all is to go" dpkg -P frontdesk

[[ $failed -eq 0 ]] || journalctl --no-pager -u frontdesk | tail -60
exit "$failed"
