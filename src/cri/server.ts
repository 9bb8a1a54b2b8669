import { randomBytes } from "node:crypto";
import { createServer, type Http2Server } from "node:http2";
import type { Interceptor, ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { CribError, messageOf } from "../error.ts";
import { ImageAdminService } from "../gen/crib/v1/image_admin_pb.ts";
import { ImageService } from "../gen/runtime/v1/image_service_pb.ts";
import { RuntimeService } from "../gen/runtime/v1/runtime_service_pb.ts";
import { log, withLog } from "../observe/log.ts";
import { containerRpcs } from "./containers.ts";
import type { CriContext } from "./context.ts";
import { toConnectError } from "./errors.ts";
import { execSyncRpcs } from "./exec-sync.ts";
import { imageAdminRpcs } from "./image-admin.ts";
import { imageRpcs } from "./images.ts";
import { podSandboxRpcs } from "./pod-sandboxes.ts";
import { runtimeRpcs } from "./runtime.ts";
import { containerStatsRpcs } from "./stats.ts";
import { streamingRpcs } from "./streaming.ts";

/** kubelet's own limit is 16 MiB; CRI-O takes 80. */
const MAX_MESSAGE_BYTES = 80 * 1024 * 1024;
/** Answered at once, also while pods are being recovered. */
const ALWAYS = new Set(["Version", "Status", "RuntimeConfig"]);

/**
 * The HTTP/2 server (prior knowledge, as gRPC clients speak on a unix socket) of both CRI services; the
 * caller lets it listen. RPCs that Crib does not have answer Unimplemented at once: they are not in the
 * implementations.
 */
export function criServer(context: CriContext): Http2Server {
  const runtime: Partial<ServiceImpl<typeof RuntimeService>> = {
    ...runtimeRpcs(context),
    ...podSandboxRpcs(context),
    ...containerRpcs(context),
    ...execSyncRpcs(context),
    ...containerStatsRpcs(context),
    ...streamingRpcs(context),
  };
  const handler = connectNodeAdapter({
    routes: (router) => {
      router.service(RuntimeService, runtime);
      router.service(ImageService, imageRpcs(context));
      router.service(ImageAdminService, imageAdminRpcs(context));
    },
    connect: false,
    grpcWeb: false,
    interceptors: [observe, gate(context.recovered)],
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
    // Answers do not leave the machine: compressing them would only cost time.
    compressMinBytes: MAX_MESSAGE_BYTES,
  });
  return createServer({}, handler);
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
