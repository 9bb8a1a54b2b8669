import { execSync } from "../container/exec-sync.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import type { ServiceImpl } from "./service.ts";

/** ExecSync. */
export function execSyncRpcs({ core }: CriContext) {
  return {
    execSync({ containerId, cmd, timeout }, { signal }) {
      return execSync(core, {
        containerId: requireId("container_id", containerId),
        command: cmd,
        timeoutSeconds: Number(timeout),
        signal,
      });
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}
