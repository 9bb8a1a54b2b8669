import { connect } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { RuntimeService } from "../gen/runtime/v1/runtime_service_pb.ts";

const URL = "http://localhost";

/**
 * Asks the daemon's Version through a new connection to its socket: what the kubelet would see.
 *
 * @throws ConnectError: no answer within `deadlineMs`.
 */
export async function askVersion(socket: string, deadlineMs: number): Promise<string> {
  const sessionManager = new Http2SessionManager(URL, undefined, {
    createConnection: () => connect(socket),
  });
  const transport = createGrpcTransport({ baseUrl: URL, sessionManager });
  try {
    const answer = await createClient(RuntimeService, transport).version(
      {},
      { timeoutMs: deadlineMs },
    );
    return `${answer.runtimeName} ${answer.runtimeVersion}`;
  } finally {
    sessionManager.abort();
  }
}
