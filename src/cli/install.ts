/** `crib install`: makes a node ready to run Crib as a service. */
import { existsSync } from "node:fs";
import { renderDefaultConfig } from "../config/render.ts";
import { CribError } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { systemdRunning } from "../linux/systemd.ts";
import { applyInstall, sameContent } from "./install/apply.ts";
import {
  CRICTL_FILE,
  configText,
  crictlText,
  hasCopiedExecutable,
  INSTALLED_EXECUTABLE,
  UNIT_FILE,
  UNIT_NAME,
  unitText,
} from "./install/content.ts";
import {
  findPlace,
  ownExecutable,
  type Place,
  type PlaceOptions,
  readPlaced,
  say,
  systemctl,
} from "./install/place.ts";
import { planInstall, type Step } from "./install/plan.ts";

export interface InstallOptions extends PlaceOptions {
  /** Also enable and start (or, after a change, restart) the service. */
  now?: boolean;
  /** Overwrite a unit that somebody changed. */
  force?: boolean;
}

/** From here the executable is run where it is. */
const SYSTEM_DIRECTORIES = /^\/(usr\/(local\/)?)?s?bin\/|^\/opt\//;

/**
 * Writes the unit, the default configuration, crictl.yaml and directories, and says of each whether it
 * was created, updated, unchanged or kept. Everything is decided before anything is written.
 *
 * @throws CribError FailedPrecondition: --now without systemd; a unit edited by hand; InvalidArgument:
 *   the configuration that is there is not valid.
 */
export async function install(options: InstallOptions): Promise<void> {
  if (options.now) requireSystemd(options);
  const place = await findPlace(options);
  const own = ownExecutable();
  const steps = planInstall({ ...factsOf(place, own), force: options.force ?? false });
  if (!options.dryRun) applyInstall(steps, place.prefix, own.source);
  for (const step of steps) {
    const changes = step.action === "created" || step.action === "updated";
    const action = options.dryRun && changes ? `would be ${step.action}` : step.action;
    const what = `${place.prefix}${step.path}${step.kind === "directory" ? "/" : ""}`;
    say(action, what, "note" in step ? step.note : undefined);
  }
  const commands = options.now ? await startCommands(steps) : [];
  for (const command of commands) {
    if (!options.dryRun) await systemctl(...command);
    say(options.dryRun ? "would run" : "ran", `systemctl ${command.join(" ")}`);
  }
  if (!options.now && !options.dryRun) sayNext(place);
}

function requireSystemd(options: InstallOptions): void {
  if (options.rootDir !== undefined) {
    const message = "--now starts a service of this machine: it does not go with --root-dir";
    throw new CribError("InvalidArgument", message);
  }
  if (systemdRunning()) return;
  throw new CribError(
    "FailedPrecondition",
    "--now: systemd does not run here (no /run/systemd/system): install without --now and start " +
      "`crib serve` your own way. Nothing was changed",
  );
}

function factsOf(place: Place, own: { source: string; path: string }) {
  const { prefix, configDir, configFile, dropInDir, config } = place;
  const inSystem = own.path.startsWith(`${prefix}/`) ? own.path.slice(prefix.length) : "";
  const runsInPlace = SYSTEM_DIRECTORIES.test(inSystem);
  const executable = runsInPlace ? inSystem : INSTALLED_EXECUTABLE;
  const unit = readPlaced(place, UNIT_FILE);
  const wasCopied = executable === INSTALLED_EXECUTABLE && hasCopiedExecutable(unit ?? "");
  const target = prefix + executable;
  return {
    directories: [
      { path: configDir, mode: 0o755 },
      { path: dropInDir, mode: 0o755 },
      { path: config.crib.root, mode: 0o711 },
    ].map((directory) => ({ ...directory, exists: existsSync(prefix + directory.path) })),
    executable: runsInPlace
      ? undefined
      : {
          path: executable,
          exists: existsSync(target),
          same: existsSync(target) && sameContent(own.source, target),
        },
    files: [
      {
        path: configFile,
        body: configText(renderDefaultConfig()),
        whenEdited: "keep" as const,
        current: readPlaced(place, configFile),
      },
      {
        path: CRICTL_FILE,
        body: crictlText(config.crib.socket),
        whenEdited: "keep" as const,
        current: readPlaced(place, CRICTL_FILE),
      },
      {
        path: UNIT_FILE,
        body: unitText({ executable, configFile, copied: !runsInPlace || wasCopied }),
        whenEdited: "refuse" as const,
        current: unit,
      },
    ],
  };
}

/** A service that runs is restarted only for a reason; its pods do not notice. */
async function startCommands(steps: readonly Step[]): Promise<string[][]> {
  const changed = steps.some(
    ({ kind, action }) => kind !== "directory" && (action === "created" || action === "updated"),
  );
  const active = await runCommand(["systemctl", "is-active", "--quiet", UNIT_NAME], {
    deadlineMs: 10_000,
  });
  return [
    ["daemon-reload"],
    ["enable", UNIT_NAME],
    [active.exitCode === 0 && changed ? "restart" : "start", UNIT_NAME],
  ];
}

function sayNext({ prefix, config }: Place): void {
  const lines = ["", "next:"];
  if (prefix === "" && !systemdRunning()) {
    lines.push("  systemd does not run here: start `crib serve` your own way");
  } else {
    lines.push(`  systemctl daemon-reload && systemctl enable --now ${UNIT_NAME}`);
  }
  lines.push(
    "  crib check    tells what this node still lacks",
    `  kubelet: containerRuntimeEndpoint: unix://${config.crib.socket}`,
  );
  process.stdout.write(`${lines.join("\n")}\n`);
}
