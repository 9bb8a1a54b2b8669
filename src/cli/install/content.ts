/** The text of the files that `crib install` writes. */
import { DEFAULT_CONFIG_FILE } from "../../config/config.ts";

/** Where `crib install` puts the executable unless it already runs from a system directory. */
export const INSTALLED_EXECUTABLE = "/usr/local/bin/crib";
export const UNIT_NAME = "crib.service";
export const UNIT_FILE = `/etc/systemd/system/${UNIT_NAME}`;
export const CRICTL_FILE = "/etc/crictl.yaml";

export interface UnitOptions {
  executable: string;
  configFile: string;
  /** `crib install` copied the executable there, so `crib uninstall` removes it. */
  copied: boolean;
}

/**
 * The systemd unit. KillMode=process and Delegate: pods live on when the daemon ends, and systemd
 * keeps its hands off cgroups below it. Limits are what containers inherit where they set none.
 *
 * MemoryMax is of the daemon and the children that work for it (unpacking, network plugins, runc start);
 * monitors and containers are elsewhere. No load reaches it, so what does is a leak, and that then costs a
 * restart of the daemon and not the node's pods: 150 MB is the daemon's budget under hostile load; all of
 * them together had 73 MiB, and 37 MiB of the kernel's, with 40 pods at once after eight layers of 60 MB,
 * and lost nothing, no time either, with 256 MiB for them and the page cache. The rest is for its files in
 * /run, which count. No MemoryHigh: a throttled daemon answers nobody, a killed one is back after RestartSec.
 * No TasksMax: callers decide how many plugins and runtimes there are, and each that cannot fork is a pod.
 */
export function unitText({ executable, configFile, copied }: UnitOptions): string {
  const config = configFile === DEFAULT_CONFIG_FILE ? "" : ` --config ${configFile}`;
  return `\
# Change it with: systemctl edit ${UNIT_NAME} (a drop-in; crib install leaves those alone)
[Unit]
Description=Crib, a Kubernetes container runtime (CRI)
After=network.target local-fs.target dbus.service
Before=kubelet.service

[Service]
Type=notify
NotifyAccess=main
ExecStartPre=-/sbin/modprobe overlay
ExecStart=${executable} serve${config}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2
WatchdogSec=60
TimeoutStopSec=45
Delegate=yes
KillMode=process
OOMPolicy=continue
OOMScoreAdjust=-999
MemoryMax=2G
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
${copied ? `\n[X-Crib]\nCopiedExecutable=${executable}\n` : ""}`;
}

/** Whether a unit that we wrote says that the executable is a copy of ours. */
export function hasCopiedExecutable(unit: string): boolean {
  return unit.includes(`\nCopiedExecutable=${INSTALLED_EXECUTABLE}\n`);
}

export function crictlText(socket: string): string {
  return `runtime-endpoint: unix://${socket}\nimage-endpoint: unix://${socket}\ntimeout: 30\n`;
}

/** For `crib.toml`: tells users what the first line is for, under it. */
export function configText(defaults: string): string {
  return `# Once you change this file, crib install and crib uninstall leave it alone.\n\n${defaults}`;
}
