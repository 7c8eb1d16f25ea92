#!/bin/bash
# The first process of a User-Mode Linux: see uml.py. Its root is the host's, read-only.
# From the kernel's command line: PACKAGES, where the Debian packages lie unpacked; OUT, a folder of
# the host for the results; MOUNT_OPTIONS of the clients. It runs OUT/job, and switches off.
set -euo pipefail
# As the first process of a kernel ends, so does the kernel, in a panic.
trap 'echo o >/proc/sysrq-trigger; while :; do sleep 1; done' EXIT
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LD_LIBRARY_PATH=$PACKAGES/usr/lib/x86_64-linux-gnu:$PACKAGES/lib/x86_64-linux-gnu
sbin=$PACKAGES/sbin usr_sbin=$PACKAGES/usr/sbin

mount -t proc proc /proc
modules=$PACKAGES/usr/lib/uml/modules/$(uname -r)/kernel
hostname server
# `insmod` is a link to /bin/kmod, which this machine may lack.
insert() { for module in "$@"; do (exec -a insmod "$PACKAGES/bin/kmod" "$modules/$module.ko"); done; }

# All may be written, and nothing of it reaches the host but OUT.
insert fs/overlayfs/overlay
mount -t tmpfs root /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
root=/mnt/root
mount -t proc proc $root/proc
mount -t sysfs sys $root/sys
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts devpts $root/dev/pts
mount -t tmpfs -o mode=1777 shm $root/dev/shm
mount -t tmpfs run $root/run
mount -t tmpfs nfs $root/var/lib
mkdir -p "$root$OUT"
mount -t hostfs -o "$OUT" out "$root$OUT"
exec >"$root$OUT/boot" 2>&1

insert net/sunrpc/sunrpc fs/nfs_common/grace fs/lockd/lockd fs/nfs_common/nfs_acl lib/oid_registry \
    net/sunrpc/auth_gss/auth_rpcgss fs/nfsd/nfsd fs/netfs/netfs fs/fscache/fscache \
    net/dns_resolver/dns_resolver fs/nfs/nfs fs/nfs/nfsv4 drivers/net/veth

# The server.
mkdir -p $root/srv/export $root/var/lib/nfs/{rpc_pipefs,v4recovery,sm} $root/run/{netns,uts}
touch $root/var/lib/nfs/{etab,rmtab,xtab}
mount -t ext4 /dev/ubda $root/srv/export
mount -t nfsd nfsd $root/proc/fs/nfsd
mount -t rpc_pipefs rpc $root/var/lib/nfs/rpc_pipefs
ip link set lo up
echo 10 >$root/proc/fs/nfsd/nfsv4leasetime
echo 10 >$root/proc/fs/nfsd/nfsv4gracetime
inside() { chroot $root "$@"; }
echo '/srv/export *(rw,sync,fsid=0,no_root_squash,no_subtree_check,insecure)' >$root/etc/exports
inside "$usr_sbin/exportfs" -a
inside "$usr_sbin/rpc.mountd" -N 2 -N 3
inside "$usr_sbin/rpc.nfsd" -N 3 -V 4.2 4
echo Y >$root/proc/fs/nfsd/v4_end_grace # no client was there before

# Two clients. To the kernel's NFS client a network namespace is a machine of its own: another
# identity, another connection, another cache.
for number in 1 2; do
    host=h$number
    inside ip netns add $host
    touch $root/run/uts/$host
    inside unshare --uts=/run/uts/$host hostname $host
    ip link add veth$number type veth peer name eth0 netns $host 2>/dev/null ||
        inside ip link add veth$number type veth peer name eth0 netns $host
    ip address add 10.88.$number.1/24 dev veth$number
    ip link set veth$number up
    mkdir -p $root/mnt/$host
    inside nsenter --net=/run/netns/$host --uts=/run/uts/$host sh -ec "
        ip link set lo up
        ip address add 10.88.$number.2/24 dev eth0
        ip link set eth0 up
        '$sbin/mount.nfs4' 10.88.$number.1:/ /mnt/$host -o 'vers=4.2,hard,sec=sys${MOUNT_OPTIONS:+,$MOUNT_OPTIONS}'"
done

unset LD_LIBRARY_PATH
set +e
inside env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 bash "$OUT/job" >"$root$OUT/output" 2>&1
echo $? >"$root$OUT/code"
