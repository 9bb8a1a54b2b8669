/** Docker credential helpers: programs named docker-credential-NAME that know passwords. */
import * as v from "valibot";
import { goStruct, text } from "../config/go-json.ts";
import { CribError } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { codeOf } from "../linux/errno.ts";
import type { Credentials } from "./credentials.ts";

/** A helper may ask a cloud's metadata service, but no person. */
const DEADLINE_MS = 15_000;
const OUTPUT_LIMIT_BYTES = 64 * 1024;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

const answerSchema = goStruct({ Username: text, Secret: text });

/**
 * Runs `docker-credential-HELPER get`; undefined when it knows nothing about the server.
 *
 * @throws CribError FailedPrecondition: there is no such program; Unavailable: it fails, says nonsense,
 *   or does not end. What it says is not repeated: it may be a secret.
 */
export async function askHelper(
  helper: string,
  serverUrl: string,
  deadlineMs = DEADLINE_MS,
): Promise<Credentials | undefined> {
  const program = `docker-credential-${helper}`;
  const failed = (why: string) =>
    new CribError("Unavailable", `credential helper ${program}: ${serverUrl}: ${why}`);
  if (!NAME.test(helper)) {
    throw new CribError("FailedPrecondition", `credential helper ${JSON.stringify(helper)}`);
  }
  const result = await run([program, "get"], serverUrl, deadlineMs);
  if (result.timedOut) throw failed(`no answer within ${deadlineMs / 1000} seconds`);
  if (result.exitCode !== 0) {
    // The protocol has no exit status for it; these are the sentences of Docker's own library.
    if (/credentials not found|credentials server not found/i.test(result.stdout)) return undefined;
    throw failed(`exit code ${result.exitCode}`);
  }
  const answer = v.safeParse(v.pipe(v.string(), v.parseJson(), answerSchema), result.stdout);
  if (!answer.success) throw failed("its answer is not understood");
  const { Username: username, Secret: secret } = answer.output;
  if (username === "" && secret === "") return undefined;
  return username === "<token>"
    ? { username: "", password: "", identityToken: secret, registryToken: "" }
    : { username, password: secret, identityToken: "", registryToken: "" };
}

async function run(argv: string[], input: string, deadlineMs: number) {
  try {
    return await runCommand(argv, {
      deadlineMs,
      stdin: input,
      // It finds its own configuration there (HOME, AWS_PROFILE and the like).
      env: { ...process.env } as Record<string, string>,
      ownSession: true,
      outputLimitBytes: OUTPUT_LIMIT_BYTES,
    });
  } catch (error) {
    const code = codeOf(error);
    if (code !== "ENOENT" && code !== "EACCES") throw error;
    throw new CribError("FailedPrecondition", `credential helper ${argv[0]}: not found in PATH`);
  }
}
