/** The disk that the virtual machine boots: Debian trixie from its packages, with systemd and cgroup v2. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cache, hashOf, output, retry } from "../conformance/programs.ts";
import { makeDisk } from "./disk.ts";

const packages = [
  ...["systemd-sysv", "dbus", "udev", "kmod", "procps"],
  ...["linux-image-cloud-amd64", "initramfs-tools", "apparmor"],
  ...["runc", "crun", "containernetworking-plugins", "iptables", "iproute2"],
  ...["docker-registry", "strace"],
];

const unit = join(import.meta.dir, "guest/crib-tests.service");

/** Before the kernel is installed: an initrd with what this machine needs is a tenth of the usual. */
const initrd = [
  'mkdir -p "$1/etc/initramfs-tools/conf.d"',
  'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/machine.conf"',
  'printf "virtio_pci\\nvirtio_blk\\next4\\n" >"$1/etc/initramfs-tools/modules"',
];

/** Runs in the new root file system, as mmdebstrap's customize hook: "$1" is its path. */
const customize = [
  `install -m 644 ${unit} "$1/etc/systemd/system/"`,
  'mkdir -p "$1/mnt/crib"',
  'echo "/dev/vdb /mnt/crib ext4 defaults 0 0" >>"$1/etc/fstab"',
  'echo node >"$1/etc/hostname"',
  // Everything that the tests read of the journal is in memory, and gone with the machine.
  'mkdir -p "$1/etc/systemd/journald.conf.d"',
  'printf "[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\nRuntimeMaxUse=300M\\n" >"$1/etc/systemd/journald.conf.d/tests.conf"',
  'chroot "$1" systemctl enable crib-tests.service',
  // They only cost boot time under emulation.
  'chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer systemd-pcrphase.service getty@tty1.service serial-getty@ttyS0.service',
  'chroot "$1" systemctl disable docker-registry.service',
];

export interface Debian {
  /** A raw ext4 image; copy it before booting. */
  disk: string;
  kernel: string;
  initrd: string;
}

/** Makes the disk, once for each content of the files that make it and of the unit in it (a minute). */
export function buildDebian(): Debian {
  const hash = hashOf([import.meta.path, join(import.meta.dir, "disk.ts"), unit]);
  const directory = join(cache, "node", `debian-${hash}`);
  if (!existsSync(directory)) {
    const staging = `${directory}.${process.pid}`;
    mkdirSync(staging, { recursive: true });
    try {
      bootstrap(staging);
      renameSync(staging, directory);
    } finally {
      rmSync(staging, { recursive: true, force: true });
    }
  }
  return {
    disk: join(directory, "disk.img"),
    kernel: join(directory, "vmlinuz"),
    initrd: join(directory, "initrd.img"),
  };
}

function bootstrap(directory: string): void {
  const root = join(directory, "root");
  const bootstrapRoot = () => {
    rmSync(root, { recursive: true, force: true });
    output([
      ...["mmdebstrap", "--variant=minbase", "--quiet", `--include=${packages.join(",")}`],
      '--aptopt=Apt::Install-Recommends "false"',
      '--aptopt=Acquire::Retries "3"',
      ...initrd.map((it) => `--essential-hook=${it}`),
      ...customize.map((it) => `--customize-hook=${it}`),
      ...["trixie", root],
    ]);
  };
  retry(bootstrapRoot);
  for (const name of readdirSync(join(root, "boot"))) {
    const [, kind] = /^(vmlinuz|initrd\.img)-/.exec(name) ?? [];
    if (kind !== undefined) renameSync(join(root, "boot", name), join(directory, kind));
  }
  makeDisk(root, join(directory, "disk.img"), "6G");
  rmSync(root, { recursive: true });
}
