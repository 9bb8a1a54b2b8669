import { randomBytes } from "node:crypto";
import { chmodSync, lstatSync, mkdirSync, unlinkSync } from "node:fs";
import { createServer, type Http2Server } from "node:http2";
import { connect } from "node:net";
import { dirname } from "node:path";
import type { Interceptor, ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Core } from "../container/core.ts";
import { CribError, messageOf } from "../error.ts";
import { ImageService } from "../gen/runtime/v1/image_service_pb.ts";
import { RuntimeService } from "../gen/runtime/v1/runtime_service_pb.ts";
import { log, withLog } from "../observe/log.ts";
import type { StatsReader } from "../stats/reader.ts";
import { containerRpcs } from "./containers.ts";
import { toConnectError } from "./errors.ts";
import { execSyncRpcs } from "./exec-sync.ts";
import { imageRpcs } from "./images.ts";
import { podSandboxRpcs } from "./pod-sandboxes.ts";
import { runtimeRpcs } from "./runtime.ts";
import { containerStatsRpcs } from "./stats.ts";

/** What the RPCs answer from. */
export interface CriContext {
  readonly core: Core;
  readonly stats: StatsReader;
  /** Resolves when what was recorded has been brought in line with what is. */
  readonly recovered: Promise<void>;
}

/** kubelet's own limit is 16 MiB; CRI-O takes 80. */
const MAX_MESSAGE_BYTES = 80 * 1024 * 1024;
/** Answered at once, also while pods are being recovered. */
const ALWAYS = new Set(["Version", "Status", "RuntimeConfig"]);

/**
 * Serves CRI on a unix socket (mode 0660, as its directory's owner is root).
 * RPCs that Crib does not have answer Unimplemented at once: they are not in the implementations.
 *
 * @throws CribError FailedPrecondition when another daemon answers on the socket.
 */
export async function serveCri(context: CriContext, socketPath: string): Promise<Http2Server> {
  const runtime: Partial<ServiceImpl<typeof RuntimeService>> = {
    ...runtimeRpcs(context),
    ...podSandboxRpcs(context),
    ...containerRpcs(context),
    ...execSyncRpcs(context),
    ...containerStatsRpcs(context),
  };
  const handler = connectNodeAdapter({
    routes: (router) => {
      router.service(RuntimeService, runtime);
      router.service(ImageService, imageRpcs(context));
    },
    connect: false,
    grpcWeb: false,
    interceptors: [observe, gate(context.recovered)],
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
  });
  const server = createServer({}, handler);
  await takeSocket(socketPath);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    const umask = process.umask(0o117);
    server.listen(socketPath, () => resolve());
    process.umask(umask);
  });
  chmodSync(socketPath, 0o660);
  return server;
}

/** A request id for every line of log, the RPC's name, duration and outcome; errors as gRPC's. */
const observe: Interceptor = (next) => (request) =>
  withLog({ requestId: randomBytes(6).toString("hex"), rpc: request.method.name }, async () => {
    const start = performance.now();
    const ms = () => Math.round((performance.now() - start) * 10) / 10;
    try {
      const response = await next(request);
      log().debug({ ms: ms() }, "answered");
      return response;
    } catch (error) {
      const failure = toConnectError(error);
      const internal = !(error instanceof CribError) && failure !== error;
      const fields = { ms: ms(), error: messageOf(error), ...(internal && { err: error }) };
      log()[internal ? "error" : "warn"](fields, "failed");
      throw failure;
    }
  });

const gate =
  (recovered: Promise<void>): Interceptor =>
  (next) =>
  async (request) => {
    if (!ALWAYS.has(request.method.name)) await recovered;
    return next(request);
  };

/** Makes way for our socket: a dead daemon's is removed, a living one's is an error. */
async function takeSocket(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new CribError("FailedPrecondition", `crib.socket: ${path} is there and is no socket`);
  }
  if (await answers(path)) {
    throw new CribError(
      "FailedPrecondition",
      `crib.socket: ${path} is in use: another daemon answers on it`,
    );
  }
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (alive: boolean) => {
      socket.destroy();
      resolve(alive);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.setTimeout(1000, () => end(true));
  });
}
