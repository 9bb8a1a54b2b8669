#!/bin/bash
# Runs in the virtual machine: every test file named in /mnt/crib/cases/list, in that order, each in a
# process of its own. What they print goes to the host through a virtio port as it comes.
here=/mnt/crib
results=/dev/virtio-ports/results
export HOME=/root PATH=$here/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
cd $here/cases || exit 1
mkdir -p $here/logs

prepare_node() {
  # A default route as on any node; nothing answers there.
  ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
  sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
  iptables -w -t nat -A POSTROUTING -s 127.0.0.0/8 '!' -o lo -j MASQUERADE
  # No name server: names fail at once.
  echo 'nameserver 127.0.0.1' >/etc/resolv.conf
  mkdir -p /etc/cni/net.d /etc/containers
  cp $here/guest/10-crib.conflist /etc/cni/net.d/
  cp $here/guest/registries.conf /etc/containers/
  # critest loads its AppArmor profiles with it.
  printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo && chmod 755 /usr/local/bin/sudo
  systemd-run --quiet --unit=registry docker-registry serve $here/guest/registry.json
}

run_file() {
  local file=$1 status mark
  echo "::file $file"
  mark=$(date +%s.%N)
  timeout -k 10 "$(cat file-timeout-seconds)" bun test "./$file.test.js" "${options[@]}" \
    --reporter=junit --reporter-outfile="$here/logs/$file.xml" </dev/null 2>&1
  status=$?
  echo "::end $file $status"
  journalctl -b -o short-precise --since "@$mark" >"$here/logs/$file.journal" 2>&1
  [ -d /var/log/pods ] && [ $status != 0 ] && cp -r /var/log/pods "$here/logs/$file.pods"
  sync -f $here
}

# A line is a file's name, or what happens to the machine: "!reboot", or "!cut IMAGE", a power cut at the
# moment in which a pull of IMAGE is answered. `next` counts the lines that are done, also over a reboot.
run_list() {
  local lines count
  mapfile -t lines <list
  while count=$(cat next) && [ "$count" -lt ${#lines[@]} ]; do
    echo $((count + 1)) >next
    case ${lines[count]} in
      !reboot) echo "::boot"; sync -f next; systemctl --no-block reboot; exit ;;
      # The host ends qemu when it reads this.
      "!cut "*) sync -f next; crictl pull "${lines[count]#* }" >/dev/null; echo "::cut"; sleep infinity ;;
      *) run_file "${lines[count]}" ;;
    esac
  done
}

prepare_node
mapfile -t options <options
run_list >$results
sync
umount -l $here
poweroff -f
