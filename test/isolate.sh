#!/bin/bash
# Runs a command in private mount, network, IPC and PID namespaces, so that nothing it leaves behind
# (mounts, bridges, iptables rules, processes) can reach the machine.
#
#   bash test/isolate.sh [--report FILE] COMMAND [ARG...]
#
# Inside: shared mount propagation as on a node under systemd, lo up, a default route that leads
# nowhere, forwarding on, /proc of the new PID namespace. Bash is PID 1 and reaps orphans at once.
# With --report, what the command left (mounts, processes) is written to FILE, one item a line.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

if [[ ${1:-} != --inside ]]; then
  exec unshare -m -n -i -p --fork --kill-child --mount-proc --propagation private \
    bash "$0" --inside "$@"
fi
shift
report=
if [[ ${1:-} == --report ]]; then
  report=$2
  shift 2
fi

mount --make-rshared /
ip link set lo up
# Port mappings need a default route; it leads nowhere. Not every kernel has dummy interfaces, but
# CNI needs veth anyway.
ip link add uplink0 type veth peer name uplink1
ip addr add 192.0.2.2/24 dev uplink0
ip link set uplink0 up
ip link set uplink1 up
ip route add default via 192.0.2.1
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1

mounts() { cut -d' ' -f4,5 /proc/self/mountinfo | sort; }
before=$(mounts)
status=0
"$@" || status=$?

if [[ -n $report ]]; then
  {
    comm -13 <(echo "$before") <(mounts) | sed 's/^/mount: /'
    for directory in /proc/[0-9]*; do
      pid=${directory#/proc/}
      [[ $pid == 1 ]] && continue
      { line=$(tr '\0' ' ' <"$directory/cmdline"); } 2>/dev/null || continue
      # Our own pipeline's members have PID 1's command line; a zombie has none.
      [[ -n $line && $line != *"isolate.sh --inside"* ]] && echo "process: $pid ${line:0:160}"
    done
  } >"$report"
fi
exit $status
