import { requireAttachable } from "../container/attach.ts";
import { requireRunning } from "../container/command.ts";
import { requireStreams } from "../container/exec.ts";
import { CribError } from "../error.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { requirePod } from "../state/find.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import type { ServiceImpl } from "./service.ts";

/** Exec, Attach, PortForward: each answers with a URL where the client may connect once. */
export function streamingRpcs({ core, streaming }: CriContext) {
  return {
    async exec({ containerId, cmd, tty, stdin, stdout, stderr }) {
      const { container } = requireRunning(core, requireId("container_id", containerId));
      if (cmd.length === 0 || cmd[0] === "") throw new CribError("InvalidArgument", "cmd is empty");
      const command = { containerId: container.id, command: cmd, tty, stdin, stdout, stderr };
      requireStreams(command);
      return { url: await streaming.url({ kind: "exec", command }) };
    },

    async attach({ containerId, tty, stdin, stdout, stderr }) {
      const id = requireId("container_id", containerId);
      const request = { containerId: id, command: [], tty, stdin, stdout, stderr };
      const { container } = requireAttachable(core, request);
      const command = { ...request, containerId: container.id };
      return { url: await streaming.url({ kind: "attach", command }) };
    },

    async portForward({ podSandboxId, port }) {
      const pod = requirePod(core.store, requireId("pod_sandbox_id", podSandboxId));
      if (pod.phase !== "ready") {
        const text = `pod sandbox ${pod.id} is ${pod.phase}, not ready`;
        throw new CribError("FailedPrecondition", text);
      }
      const bad = port.find((it) => it < 1 || it > 65_535);
      if (bad !== undefined) {
        throw new CribError("InvalidArgument", `port: ${bad} is not one of 1 to 65535`);
      }
      const url = await streaming.url({ kind: "portforward", podSandboxId: pod.id, ports: port });
      return { url };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}
