#!/bin/bash
# Boots a systemd in a container on an overlay of this machine's own root, and tries the package in it: inside.sh.
# usage: tests/systemd/nspawn.sh PACKAGE.deb      as root; exit code 0 passed, 1 failed, 77 it can't run here
set -euo pipefail
package=$(realpath "$1")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

skip() {
    echo "################################################################" >&2
    echo "## NOT TESTED under systemd: $*" >&2
    echo "################################################################" >&2
    exit 77
}
[[ $EUID -eq 0 ]] || skip "this needs root"
command -v systemd-nspawn >/dev/null || skip "there is no systemd-nspawn (Debian: systemd-container)"
[[ -x /lib/systemd/systemd ]] || skip "this machine has no systemd to boot"

# A file system of its own, since an overlay can't lie on the root that it is made of.
scratch=$(mktemp -d /tmp/frontdesk-nspawn.XXXXXX)
clean() {
    umount "$scratch/root" 2>/dev/null || true
    umount "$scratch" 2>/dev/null || true
    rmdir "$scratch" 2>/dev/null || true
}
trap clean EXIT
mount -t tmpfs -o mode=755 tmpfs "$scratch" 2>/dev/null || skip "nothing can be mounted"
mkdir "$scratch"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root" 2>/dev/null || skip "there are no overlays"

root=$scratch/root
cp "$package" "$root/frontdesk.deb"
install -m 755 "$here/inside.sh" "$root/inside.sh"
rm -rf "$root"/etc/frontdesk "$root"/run/* "$root"/etc/systemd/system/multi-user.target.wants/*
# What would be in the way, and what belongs to the machine outside.
rm -f "$root"/usr/sbin/policy-rc.d "$root"/etc/machine-id
cat >"$root/etc/systemd/system/frontdesk-test.service" <<'UNIT'
[Unit]
Description=What is tested
Requires=dbus.service
After=dbus.service basic.target
Wants=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c '/inside.sh >/outcome.log 2>&1; echo $? >/outcome'
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=180
UNIT
echo "== booting" >&2
timeout 240 systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe -D "$root" -b -- --unit=frontdesk-test.service \
    >"$scratch/console" 2>&1 </dev/null || true
if [[ ! -s $root/outcome ]]; then
    cat "$scratch/console" "$root/outcome.log" 2>/dev/null | tail -40 >&2
    [[ -e $root/outcome.log ]] || skip "systemd-nspawn can't boot here"
    echo "FAIL it did not come to an end" >&2
    exit 1
fi
cat "$root/outcome.log"
exit "$(cat "$root/outcome")"
