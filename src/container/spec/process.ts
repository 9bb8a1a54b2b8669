import { posix } from "node:path";
import type { KeyValue } from "../../gen/runtime/v1/common_pb.ts";
import type { ContainerConfig } from "../../gen/runtime/v1/container_config_pb.ts";
import type { ImageDefaults } from "./input.ts";
import { type OciNumber, type OciRlimit, ociNumber } from "./oci.ts";
import { invalid } from "./refuse.ts";

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * The command line by Kubernetes' rules: a command replaces the image's entrypoint and its cmd; args
 * alone replace the cmd.
 */
export function buildArgs(
  config: Pick<ContainerConfig, "command" | "args">,
  image: ImageDefaults,
): string[] {
  const entrypoint = config.command.length > 0 ? config.command : (image.Entrypoint ?? []);
  const ownArgs = config.command.length > 0 || config.args.length > 0;
  const args = [...entrypoint, ...(ownArgs ? config.args : (image.Cmd ?? []))];
  if (args.length === 0) {
    throw invalid("command", [], "neither the container nor its image names a command");
  }
  if (args.some((arg) => arg.includes("\0"))) {
    throw invalid("command", args[0], "the command or an argument holds a NUL byte");
  }
  return args;
}

export interface EnvironmentRequest {
  envs: readonly KeyValue[];
  image: ImageDefaults;
  /** `runtime.default_env`: "NAME=value". */
  defaults: readonly string[];
  hostname: string;
  home: string;
  terminal: boolean;
}

/**
 * The environment, each name once: PATH, HOSTNAME, HOME and TERM unless somebody names them; then the
 * node's defaults, the image's, the request's, where a later one wins. Values may be secrets: no error
 * shows one.
 */
export function buildEnvironment(request: EnvironmentRequest): {
  env: string[];
  warnings: string[];
} {
  const warnings: string[] = [];
  const variables = new Map([
    ["PATH", DEFAULT_PATH],
    ["HOME", request.home],
  ]);
  if (request.hostname !== "") variables.set("HOSTNAME", request.hostname);
  if (request.terminal) variables.set("TERM", "xterm");
  for (const entry of [...request.defaults, ...(request.image.Env ?? [])]) {
    const at = entry.indexOf("=");
    if (at > 0 && !entry.includes("\0")) variables.set(entry.slice(0, at), entry.slice(at + 1));
    else warnings.push(`image Env: an entry without a name or without "=" is left out`);
  }
  for (const [index, { key, value }] of request.envs.entries()) {
    const field = `envs[${index}]`;
    if (key === "" || /[=\0]/.test(key)) {
      throw invalid(`${field}.key`, key, 'must not be empty, nor hold "=" or a NUL byte');
    }
    variables.set(key, decodeValue(value, `${field}.value`, key));
  }
  return { env: [...variables].map(([key, value]) => `${key}=${value}`), warnings };
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** config.json is UTF-8 text, so other bytes cannot be passed on. */
function decodeValue(value: Uint8Array, field: string, key: string): string {
  let text: string;
  try {
    text = strictUtf8.decode(value);
  } catch {
    throw invalid(field, `(of ${key})`, "is not UTF-8, which the OCI configuration requires");
  }
  if (text.includes("\0")) throw invalid(field, `(of ${key})`, "holds a NUL byte");
  return text;
}

/** The working directory: the request's, else the image's, else "/". The OCI runtime creates it. */
export function buildWorkingDirectory(requested: string, image: ImageDefaults): string {
  if (requested.includes("\0") || (requested !== "" && !requested.startsWith("/"))) {
    throw invalid("working_dir", requested, "must be an absolute path");
  }
  return posix.resolve("/", requested || image.WorkingDir || "/");
}

const RLIMITS = new Set(
  (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime " +
    "sigpending stack"
  ).split(" "),
);
const RLIM_INFINITY = "18446744073709551615";

/** What programs that walk over all descriptors, or use select(2), expect; others raise it themselves. */
const OPEN_FILES = 1024;

/**
 * The node's resource limits. Of open files there is always one, `openFilesMax` at most: else containers
 * get what the daemon or the OCI runtime has raised its own to.
 */
export function buildRlimits(ulimits: readonly string[], openFilesMax: number): OciRlimit[] {
  const limits = ulimits.map(parseUlimit);
  if (limits.some(({ type }) => type === "RLIMIT_NOFILE")) return limits;
  const hard = ociNumber(String(openFilesMax));
  return [
    ...limits,
    { type: "RLIMIT_NOFILE", soft: ociNumber(String(Math.min(OPEN_FILES, openFilesMax))), hard },
  ];
}

function parseUlimit(text: string): OciRlimit {
  const field = "runtime.default_ulimits";
  const [, name = "", soft = "", hard = soft] =
    /^([a-z]+)=(-1|\d+)(?::(-1|\d+))?$/.exec(text) ?? [];
  if (!RLIMITS.has(name)) throw invalid(field, text, "is not NAME=SOFT:HARD of a resource limit");
  const above = hard !== "-1" && (soft === "-1" || BigInt(soft) > BigInt(hard));
  if (above) throw invalid(field, text, "the soft limit is above the hard one");
  return { type: `RLIMIT_${name.toUpperCase()}`, soft: limit(soft), hard: limit(hard) };
}

function limit(digits: string): OciNumber {
  return ociNumber(digits === "-1" ? RLIM_INFINITY : digits);
}
