import type { ServiceImpl } from "@connectrpc/connect";
import { requireRunning } from "../container/command.ts";
import { CribError } from "../error.ts";
import type { RuntimeService } from "../gen/runtime/v1/runtime_service_pb.ts";
import { requirePod } from "../state/find.ts";
import type { CommandRequest } from "../streaming/channels.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";

/** Exec, Attach, PortForward: each answers with a URL where the client may connect once. */
export function streamingRpcs({ core, streaming }: CriContext) {
  return {
    async exec({ containerId, cmd, tty, stdin, stdout, stderr }) {
      const { container } = requireRunning(core, requireId("container_id", containerId));
      if (cmd.length === 0 || cmd[0] === "") throw new CribError("InvalidArgument", "cmd is empty");
      const command = requireStreams({
        ...{ containerId: container.id, command: cmd },
        ...{ tty, stdin, stdout, stderr },
      });
      return { url: await streaming.url({ kind: "exec", command }) };
    },

    async attach({ containerId, tty, stdin, stdout, stderr }) {
      const { container } = requireRunning(core, requireId("container_id", containerId));
      const command = requireStreams({
        ...{ containerId: container.id, command: [] },
        ...{ tty, stdin, stdout, stderr },
      });
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
  } satisfies Partial<ServiceImpl<typeof RuntimeService>>;
}

/** Streams that nobody asks for, or that cannot be told apart, are refused before there is a URL. */
function requireStreams(command: CommandRequest): CommandRequest {
  const { tty, stdin, stdout, stderr } = command;
  if (!stdin && !stdout && !stderr) {
    throw new CribError("InvalidArgument", "at least one of stdin, stdout and stderr must be true");
  }
  if (tty && stderr) {
    throw new CribError("InvalidArgument", "stderr: must be false with tty, which is one stream");
  }
  return command;
}
