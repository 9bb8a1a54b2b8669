import type { ServiceImpl } from "@connectrpc/connect";
import { execSync } from "../container/exec-sync.ts";
import type { RuntimeService } from "../gen/runtime/v1/runtime_service_pb.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";

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
  } satisfies Partial<ServiceImpl<typeof RuntimeService>>;
}
