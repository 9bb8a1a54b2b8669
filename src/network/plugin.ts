/**
 * Runs one CNI plugin: parameters in the environment, configuration on standard input, result on standard
 * output. Source: CNI specification 1.1.0, section 2 and "Error" in section 5.
 */
import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { CribError, type ErrorCode, messageOf } from "../error.ts";
import { childEnvironment, runCommand } from "../linux/command.ts";
import { log } from "../observe/log.ts";

/** Results are a few KiB; a plugin that writes more than this is broken. */
const OUTPUT_LIMIT_BYTES = 1024 * 1024;

/** Questions that change nothing are answered at once, or the plugin hangs. */
const QUESTION_TIMEOUT_MS = 10_000;

const errorSchema = v.looseObject({
  code: v.number(),
  msg: v.optional(v.string(), ""),
  details: v.optional(v.string(), ""),
});

/** A plugin that could not do what it was asked. */
export class PluginError extends CribError {
  constructor(
    code: ErrorCode,
    message: string,
    /** The `code` of the plugin's own error object. */
    readonly cniCode?: number,
  ) {
    super(code, message);
  }
}

/** One call of a plugin. */
export interface PluginCall {
  verb: "ADD" | "DEL" | "STATUS" | "GC" | "VERSION";
  type: string;
  /** The request configuration, written to standard input as JSON. */
  config: Record<string, unknown>;
  /** CNI_* variables besides CNI_COMMAND and CNI_PATH. */
  env: Record<string, string>;
  /** Names the network and the pod in messages. */
  subject: string;
  /** An open file that the plugin keeps open while it runs. */
  hold?: number;
}

/** The directories with plugins, and how long one may take. */
export class Plugins {
  constructor(
    readonly binDirs: string[],
    readonly timeoutMs: number,
  ) {}

  /** The plugin's executable, from the first directory that has it. */
  find(type: string): string | undefined {
    for (const directory of this.binDirs) {
      const path = join(directory, type);
      try {
        accessSync(path, constants.X_OK);
        if (statSync(path).isFile()) return path;
      } catch {
        // not here
      }
    }
    return undefined;
  }

  /**
   * Runs a plugin to its end and returns what it wrote, parsed; `undefined` for empty output.
   *
   * @throws PluginError that names the plugin, the verb and the subject: DeadlineExceeded when it had to
   *   be killed, Unavailable when it asks to try later or says that it is not ready, FailedPrecondition
   *   when it is missing or refuses its configuration, else Internal.
   */
  async call(call: PluginCall): Promise<unknown> {
    const what = `CNI plugin ${call.type}: ${call.verb} for ${call.subject}`;
    const path = this.find(call.type);
    if (path === undefined) {
      const where = this.binDirs.join(", ");
      throw new PluginError("FailedPrecondition", `${what}: no such executable in ${where}`);
    }
    const asks = call.verb === "STATUS" || call.verb === "VERSION";
    const deadlineMs = asks ? Math.min(this.timeoutMs, QUESTION_TIMEOUT_MS) : this.timeoutMs;
    const result = await this.#run(path, call, what, deadlineMs);
    if (result.timedOut) {
      const message = `${what}: killed because it took longer than ${deadlineMs / 1000} s`;
      throw new PluginError("DeadlineExceeded", withStderr(message, result.stderr));
    }
    if (Buffer.byteLength(result.stdout) >= OUTPUT_LIMIT_BYTES) {
      throw new PluginError("Internal", `${what}: wrote more than ${OUTPUT_LIMIT_BYTES} bytes`);
    }
    if (result.exitCode !== 0) throw failure(what, result);
    if (result.stderr !== "") {
      log().debug({ plugin: call.type, verb: call.verb, stderr: excerpt(result.stderr) }, "CNI");
    }
    if (result.stdout.trim() === "") return undefined;
    try {
      return JSON.parse(result.stdout) as unknown;
    } catch {
      const message = `${what}: its output is not JSON: ${excerpt(result.stdout)}`;
      throw new PluginError("Internal", message);
    }
  }

  /** The CNI versions that a plugin says it speaks; `undefined` when it does not answer. */
  async versions(type: string): Promise<string[] | undefined> {
    const call: PluginCall = {
      verb: "VERSION",
      type,
      config: { cniVersion: "1.1.0" },
      env: {},
      subject: "version probe",
    };
    try {
      const output = await this.call(call);
      return v.parse(v.looseObject({ supportedVersions: v.array(v.string()) }), output)
        .supportedVersions;
    } catch (error) {
      log().debug(
        { plugin: type, error: messageOf(error) },
        "CNI plugin does not tell its versions",
      );
      return undefined;
    }
  }

  async #run(path: string, call: PluginCall, what: string, deadlineMs: number) {
    try {
      return await runCommand([path], {
        ownSession: true,
        inherit: call.hold,
        deadlineMs,
        outputLimitBytes: OUTPUT_LIMIT_BYTES,
        stdin: JSON.stringify(call.config),
        env: {
          PATH: childEnvironment().PATH ?? "",
          ...call.env,
          CNI_COMMAND: call.verb,
          CNI_PATH: this.binDirs.join(":"),
        },
      });
    } catch (error) {
      throw new PluginError("Internal", `${what}: cannot run ${path}: ${messageOf(error)}`);
    }
  }
}

/** Codes of section 5: 11 is "try again later", 50 and 51 "not available"; 1, 2 and 7 blame the config. */
const CODES: Record<number, ErrorCode> = {
  1: "FailedPrecondition",
  2: "FailedPrecondition",
  7: "FailedPrecondition",
  11: "Unavailable",
  50: "Unavailable",
  51: "Unavailable",
};

function failure(
  what: string,
  result: { exitCode: number; stdout: string; stderr: string },
): PluginError {
  const parsed = v.safeParse(errorSchema, tryJson(result.stdout));
  if (!parsed.success) {
    const output = result.stdout.trim() === "" ? "" : `: ${excerpt(result.stdout)}`;
    const message = `${what}: failed with exit code ${result.exitCode}${output}`;
    return new PluginError("Internal", withStderr(message, result.stderr));
  }
  const { code, msg, details } = parsed.output;
  const text = [msg, details].filter((part) => part !== "").join("; ");
  const message = `${what}: ${excerpt(text)} (CNI error ${code})`;
  return new PluginError(CODES[code] ?? "Internal", message, code);
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function withStderr(message: string, stderr: string): string {
  return stderr.trim() === "" ? message : `${message}: ${excerpt(stderr)}`;
}

/** Enough of a plugin's output to understand it, on one line. */
function excerpt(text: string): string {
  const line = text.trim().replaceAll(/\s+/g, " ");
  return line.length > 1000 ? `${line.slice(0, 1000)}…` : line;
}
