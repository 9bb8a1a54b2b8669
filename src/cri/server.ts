import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { basename } from "node:path";
import {
  type MethodDefinition,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptor,
  type ServerUnaryCall,
  type sendUnaryData,
} from "@grpc/grpc-js";
import { CribError, messageOf } from "../error.ts";
import { ImageAdminServiceDefinition } from "../gen/crib/v1/image_admin_pb.ts";
import { ImageServiceDefinition } from "../gen/runtime/v1/image_service_pb.ts";
import { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { log, withLog } from "../observe/log.ts";
import { OneATurn } from "../observe/one-a-turn.ts";
import { containerRpcs } from "./containers.ts";
import type { CriContext } from "./context.ts";
import { statusCode } from "./errors.ts";
import { execSyncRpcs } from "./exec-sync.ts";
import { imageAdminRpcs } from "./image-admin.ts";
import { imageRpcs } from "./images.ts";
import { podSandboxRpcs } from "./pod-sandboxes.ts";
import { runtimeRpcs } from "./runtime.ts";
import {
  type CallContext,
  EncodedAnswer,
  methodDefinition,
  type Service,
  type ServiceImpl,
} from "./service.ts";
import { containerStatsRpcs } from "./stats.ts";
import { streamingRpcs } from "./streaming.ts";
import { Turns } from "./turns.ts";

/**
 * The kernel runs nothing with more than 6 MiB of arguments and environment. What is said in a request is
 * also told in a status, of which the kubelet takes 16 MiB.
 */
const REQUEST_LIMIT_BYTES = 8 * 1024 * 1024;
const ANSWER_LIMIT_BYTES = 16 * 1024 * 1024;
/** Between connections that have begun to speak: what one says first is dealt with at once. */
const ACCEPT_PAUSE_MS = 4;
/** Answered at once, also while pods are being recovered. */
const ALWAYS = new Set(["Version", "Status", "RuntimeConfig"]);
/** What others have said may be in their answers at length. */
const TELLING = new Set(["ExecSync", "PodSandboxStatus", "ContainerStatus", "ImageStatus"]);

/** The gRPC server of both CRI services; who listens hands it the connections. */
export interface CriServer {
  accept(connection: Socket): void;
  /** Takes no new calls; those that run may go on for `graceMs`. */
  drain(graceMs: number): void;
}

/** RPCs that Crib does not have answer Unimplemented at once: they are not in the implementations. */
export function criServer(context: CriContext): CriServer {
  const server = new Server({
    "grpc.max_receive_message_length": REQUEST_LIMIT_BYTES,
    "grpc.max_send_message_length": ANSWER_LIMIT_BYTES,
    "grpc.enable_channelz": 0,
    interceptors: [tellSent],
  });
  const starts = new OneATurn();
  const begin = () => context.recovered.then(() => starts.next());
  serve(server, begin, RuntimeServiceDefinition, {
    ...runtimeRpcs(context),
    ...podSandboxRpcs(context),
    ...containerRpcs(context),
    ...execSyncRpcs(context),
    ...containerStatsRpcs(context),
    ...streamingRpcs(context),
  });
  serve(server, begin, ImageServiceDefinition, imageRpcs(context));
  serve(server, begin, ImageAdminServiceDefinition, imageAdminRpcs(context));
  const connections = server.createConnectionInjector(ServerCredentials.createInsecure());
  const accepting = new OneATurn(ACCEPT_PAUSE_MS);
  return {
    accept(connection) {
      // Of one that goes before it has said anything.
      connection.on("error", () => undefined);
      connection.once("readable", () => {
        void accepting.next().then(() => connections.injectConnection(connection));
      });
    },
    drain: (graceMs) => connections.drain(graceMs),
  };
}

type Handler = (request: unknown, context: CallContext) => unknown;

function serve<S extends Service>(
  server: Server,
  begin: () => Promise<void>,
  service: S,
  implementation: ServiceImpl<S>,
): void {
  const implemented = implementation as Readonly<Record<string, Handler | undefined>>;
  const definitions: Record<string, MethodDefinition<unknown, unknown>> = {};
  const handlers: Record<string, ReturnType<typeof unary>> = {};
  const turns = new Turns();
  for (const [key, method] of Object.entries(service.methods)) {
    const handler = implemented[key];
    if (handler === undefined) continue;
    const { name, responseType } = method;
    const atOnce = ALWAYS.has(name);
    definitions[name] = methodDefinition(service, method);
    handlers[name] = unary(name, async (request, callContext) => {
      if (!atOnce) await begin();
      const make = () => handler(request, callContext);
      return TELLING.has(name) && isVerbose(request) ? turns.answer(responseType, make) : make();
    });
  }
  server.addService(definitions, handlers);
}

function isVerbose(request: unknown): boolean {
  return (
    typeof request === "object" && request !== null && "verbose" in request && !!request.verbose
  );
}

function whenAborted(signal: AbortSignal, action: () => void): void {
  if (signal.aborted) action();
  else signal.addEventListener("abort", action, { once: true });
}

/** Tells an `EncodedAnswer` when the client has taken it: the status comes behind the last of its bytes. */
const tellSent: ServerInterceptor = (method, call) => {
  if (!TELLING.has(basename(method.path))) return new ServerInterceptingCall(call);
  let sent: unknown;
  return new ServerInterceptingCall(call, {
    sendMessage(message, next) {
      sent = message;
      next(message);
    },
    sendStatus(status, next) {
      if (sent instanceof EncodedAnswer) sent.sent();
      next(status);
    },
  });
};

/** A request id for every line of log, the RPC's name, duration and outcome; errors as gRPC's. */
function unary(rpc: string, handler: Handler) {
  return (call: ServerUnaryCall<unknown, unknown>, answer: sendUnaryData<unknown>): void => {
    const abort = new AbortController();
    call.on("cancelled", () => abort.abort(new CribError("Canceled", "the client has gone")));
    const start = performance.now();
    const ms = () => Math.round((performance.now() - start) * 10) / 10;
    void withLog({ requestId: randomBytes(6).toString("hex"), rpc }, async () => {
      try {
        const response = await handler(call.request, { signal: abort.signal });
        if (response instanceof EncodedAnswer) whenAborted(abort.signal, response.sent);
        log().debug({ ms: ms() }, "answered");
        answer(null, response);
      } catch (error) {
        const internal = !(error instanceof CribError);
        const fields = { ms: ms(), error: messageOf(error), ...(internal && { err: error }) };
        log()[internal ? "error" : "warn"](fields, "failed");
        answer({ code: statusCode(error), details: messageOf(error) });
      }
    });
  };
}
