import { execSync, type SyncResult } from "../container/exec-sync.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { ExecSyncResponse } from "../gen/runtime/v1/streaming_pb.ts";
import type { CriContext } from "./context.ts";
import { requireId } from "./ids.ts";
import { EncodedAnswer, type ServiceImpl } from "./service.ts";
import { lengthDelimited } from "./wire.ts";

/** ExecSync. */
export function execSyncRpcs({ core }: CriContext) {
  return {
    async execSync({ containerId, cmd, timeout }, { signal }) {
      const result = await execSync(core, {
        containerId: requireId("container_id", containerId),
        command: cmd,
        timeoutSeconds: Number(timeout),
        signal,
      });
      const { output } = result;
      const bytes = encode(result);
      output.clear();
      return new EncodedAnswer(bytes, () => output.close());
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}

/** Fields 1 and 2 of an ExecSyncResponse are bytes; the stubs would copy each of them three times. */
function encode({ output: { stdout, stderr }, exitCode }: SyncResult): Buffer {
  const rest = ExecSyncResponse.encode(ExecSyncResponse.fromPartial({ exitCode })).finish();
  return Buffer.concat([...lengthDelimited(1, stdout), ...lengthDelimited(2, stderr), rest]);
}
