import type { Outcome } from "./channels.ts";

/**
 * What an error channel says at the end. Versions 4 and 5 of the channel protocol send a Kubernetes
 * Status (k8s.io/apimachinery, meta/v1) as JSON; the earlier ones send text, and nothing at all when all
 * went well.
 *
 * @param json Whether the protocol is version 4 or later.
 */
export function statusMessage(outcome: Outcome, json: boolean): string {
  if ("error" in outcome) {
    const message = `Internal error occurred: ${outcome.error}`;
    return json
      ? JSON.stringify({ status: "Failure", reason: "InternalError", message, code: 500 })
      : message;
  }
  const { exitCode } = outcome;
  if (exitCode === 0) return json ? JSON.stringify({ metadata: {}, status: "Success" }) : "";
  const message = `command terminated with non-zero exit code: ${exitCode}`;
  if (!json) return message;
  return JSON.stringify({
    metadata: {},
    status: "Failure",
    reason: "NonZeroExitCode",
    message,
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  });
}
