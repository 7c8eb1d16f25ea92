#!/bin/bash
# Becomes systemd, as PID 1 of a machine of its own: see machine.py, which has made the namespaces.
# $1 the root to be, an overlay of the host's; $2 its disk, which survives a reboot; then SOURCE:TARGET to bind.
set -euo pipefail
root=$1 disk=$2
shift 2

# The host's /proc still lies here: it tells by which number the host knows this process.
read -r pid _ </proc/self/stat
echo "pid $pid"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for knobs in sys sysrq-trigger irq bus; do # they are the host's, too
    [ -e "$root/proc/$knobs" ] || continue
    mount --bind "$root/proc/$knobs" "$root/proc/$knobs"
    mount -o remount,bind,ro "$root/proc/$knobs"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
if grep -q cgroup-v1 <<<"${MACHINE_CGROUPS:-}"; then
    mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
        mkdir "$root/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "$root/sys/fs/cgroup/$controller"
    done
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
else
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
fi

mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
mknod -m 600 "$root/dev/console" c 1 3
for card in 0 1; do # as NVIDIA's driver has them; here there is none behind
    mknod -m 666 "$root/dev/nvidia$card" c 195 "$card"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir "$root/run/lock"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/var/tmp"

# What lasts: /etc/systemd without the host's own units, and a file system for the spool that is no overlay.
for folder in etc/systemd var/lib/i2ii; do
    mkdir -p "$disk/$folder" "$root/$folder"
    mount --bind "$disk/$folder" "$root/$folder"
done
for bind in "$@"; do
    target=$root${bind#*:}
    if [ -d "${bind%%:*}" ]; then mkdir -p "$target"; else [ -e "$target" ] || install -D /dev/null "$target"; fi
    mount --rbind "${bind%%:*}" "$root${bind#*:}"
done
if [ ! -e "$root/etc/systemd/system.conf" ]; then
    mkdir -p "$root/etc/systemd/system" "$root/etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n' >"$root/etc/systemd/journald.conf.d/machine.conf"
    printf '[Manager]\nDefaultTimeoutStopSec=20s\n' >"$root/etc/systemd/system.conf"
    ln -s /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    for unit in systemd-{timesyncd,networkd,resolved,remount-fs,journal-flush,update-utmp,sysctl,random-seed,modules-load}.service \
        systemd-{machine-id-commit,binfmt,logind}.service getty.target dev-hugepages.mount sys-kernel-{debug,tracing}.mount \
        sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount remote-fs.target; do
        ln -s /dev/null "$root/etc/systemd/system/$unit"
    done
    : >"$root/etc/fstab"
fi
echo machine >"$root/etc/hostname"
ip link set lo up

cd "$root"
mkdir -p .old
pivot_root . .old
umount -l .old
exec env -i container=i2ii-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --system --log-target=journal --show-status=0 </dev/null
