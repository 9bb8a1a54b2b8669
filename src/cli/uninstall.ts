/** `crib uninstall`: takes back what `crib install` did. */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CribError } from "../error.ts";
import { tryLock } from "../linux/lock.ts";
import { systemdRunning } from "../linux/systemd.ts";
import { applyUninstall } from "./install/apply.ts";
import {
  CRICTL_FILE,
  hasCopiedExecutable,
  INSTALLED_EXECUTABLE,
  UNIT_FILE,
  UNIT_NAME,
} from "./install/content.ts";
import {
  findPlace,
  type Place,
  type PlaceOptions,
  readPlaced,
  say,
  systemctl,
} from "./install/place.ts";
import { planUninstall } from "./install/plan.ts";

export interface UninstallOptions extends PlaceOptions {
  /** Also remove data (images, layers, database) and configuration that was changed. */
  purge?: boolean;
  /** Remove a unit that somebody changed. */
  force?: boolean;
}

/** What Crib makes in its root and state directories; nothing else there is ever removed. */
const ROOT_ENTRIES =
  "bin cadvisor containers crib.db crib.db-shm crib.db-wal import layer-index layers lock network session".split(
    " ",
  );
const STATE_ENTRIES = "bin containers lock pods runtimes".split(" ");

/**
 * Stops the service and removes unit, executable (where install copied it) and configuration that
 * nobody changed; data stays unless `purge`. Pods that run live on, so `purge` refuses while there are
 * any.
 *
 * @throws CribError FailedPrecondition: a unit edited by hand; pods or a daemon that still use the data.
 */
export async function uninstall(options: UninstallOptions): Promise<void> {
  const place = await findPlace(options);
  const { purge = false, force = false, dryRun = false } = options;
  const systemd = place.prefix === "" && systemdRunning();
  const unit = readPlaced(place, UNIT_FILE);
  const removals = planUninstall({ ...factsOf(place, unit, purge), purge, force });
  if (purge) refuseInUse(place);
  const hasService = systemd && unit !== undefined;
  if (hasService) await run(dryRun, "disable", "--now", UNIT_NAME);
  if (purge && !dryRun) refuseLocked(place);
  if (!dryRun) applyUninstall(removals, place.prefix);
  for (const { path, kind, action, note } of removals) {
    const full = place.prefix + path;
    // Directories go quietly, and only when they are empty.
    if (kind === "directory") continue;
    say(dryRun && action === "removed" ? "would be removed" : action, full, note);
  }
  if (hasService) await run(dryRun, "daemon-reload");
  if (removals.every(({ kind }) => kind === "directory")) say("unchanged", "nothing is installed");
}

async function run(dryRun: boolean, ...command: string[]): Promise<void> {
  if (!dryRun) await systemctl(...command);
  say(dryRun ? "would run" : "ran", `systemctl ${command.join(" ")}`);
}

function factsOf(place: Place, unit: string | undefined, purge: boolean) {
  const { prefix, configFile, dropInDir, configDir, config } = place;
  const { root, state, socket } = config.crib;
  const there = (path: string) => existsSync(prefix + path);
  const copied = hasCopiedExecutable(unit ?? "") && there(INSTALLED_EXECUTABLE);
  const dropIns = there(dropInDir) ? readdirSync(prefix + dropInDir) : [];
  const configuration = [
    { path: configFile, drops: true },
    ...dropIns
      .filter((name) => name.endsWith(".toml"))
      .map((name) => ({ path: join(dropInDir, name), drops: true })),
    // Other tools may be using it by now.
    { path: CRICTL_FILE, drops: false },
  ];
  const data = [
    ...ROOT_ENTRIES.map((name) => join(root, name)),
    ...STATE_ENTRIES.map((name) => join(state, name)),
    socket,
  ].filter(there);
  return {
    unit: { path: UNIT_FILE, current: unit },
    executable: copied ? INSTALLED_EXECUTABLE : undefined,
    configuration: configuration.map((file) => ({
      ...file,
      current: readPlaced(place, file.path),
    })),
    // What stays is told in one line.
    data: purge || data.length === 0 ? data : [root],
    // What lies in preload, an administrator has put there.
    directories: [dropInDir, configDir, join(root, "preload"), root, state],
  };
}

/** Removing through a mount would remove a volume's or a container's files; running pods have mounts. */
function refuseInUse({ prefix, config }: Place): void {
  const mounted = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .find((path) =>
      [config.crib.root, config.crib.state].some((base) => path.startsWith(`${prefix}${base}/`)),
    );
  if (mounted === undefined) return;
  throw new CribError(
    "FailedPrecondition",
    `--purge: pods still use ${mounted}: remove them first (crictl rmp --all --force). ` +
      "Nothing was changed",
  );
}

function refuseLocked({ prefix, config }: Place): void {
  for (const directory of [config.crib.root, config.crib.state]) {
    const path = `${prefix}${directory}/lock`;
    if (!existsSync(path)) continue;
    const fd = openSync(path, "r");
    const free = tryLock(fd);
    closeSync(fd);
    if (!free) {
      const message = `--purge: a crib serve still uses ${directory}: stop it first`;
      throw new CribError("FailedPrecondition", message);
    }
  }
}
