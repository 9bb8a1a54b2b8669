/** Clients of the daemon on this node, or of any CRI runtime. */
import { Client as Channel, credentials, Metadata, type MethodDefinition } from "@grpc/grpc-js";
import { fromStatus } from "../cri/errors.ts";
import {
  methodDefinition,
  type Reply,
  type RequestPart,
  type Service,
  type Unary,
} from "../cri/service.ts";
import { ImageAdminServiceDefinition } from "../gen/crib/v1/image_admin_pb.ts";
import { ImageServiceDefinition } from "../gen/runtime/v1/image_service_pb.ts";
import { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";

export interface CallOptions {
  /** Milliseconds until the call fails with DeadlineExceeded. */
  timeoutMs?: number;
  /** Aborted: the call is cancelled, and fails with Canceled. */
  signal?: AbortSignal;
}

/** The RPCs of a service. They fail with a CribError that has the code and the message of the answer. */
export type Client<S extends Service> = {
  readonly [K in Unary<S>]: (
    request: RequestPart<S["methods"][K]>,
    options?: CallOptions,
  ) => Promise<Reply<S["methods"][K]>>;
};

export interface CriClients {
  readonly runtime: Client<typeof RuntimeServiceDefinition>;
  readonly image: Client<typeof ImageServiceDefinition>;
  readonly admin: Client<typeof ImageAdminServiceDefinition>;
  close(): void;
}

/**
 * @param socket the path of the CRI socket; connected to when the first call is made.
 * @param timeoutMs of calls that have no own.
 * @param limitBytes of an answer.
 */
export function connectCri(
  socket: string,
  { timeoutMs = 0, limitBytes = 80 * 1024 * 1024 } = {},
): CriClients {
  const channel = new Channel(`unix:${socket}`, credentials.createInsecure(), {
    "grpc.max_receive_message_length": limitBytes,
    "grpc.enable_channelz": 0,
    // A connection of its own.
    "grpc.use_local_subchannel_pool": 1,
    // A daemon that is started again answers soon.
    "grpc.initial_reconnect_backoff_ms": 20,
    "grpc.max_reconnect_backoff_ms": 200,
  });
  const of = <S extends Service>(service: S) => clientOf(channel, service, timeoutMs);
  return {
    runtime: of(RuntimeServiceDefinition),
    image: of(ImageServiceDefinition),
    admin: of(ImageAdminServiceDefinition),
    close: () => channel.close(),
  };
}

function clientOf<S extends Service>(channel: Channel, service: S, timeoutMs: number): Client<S> {
  const unary = Object.entries(service.methods).filter(([, method]) => !method.responseStream);
  const calls = unary.map(([key, method]) => {
    const definition = methodDefinition(service, method);
    const run = (request: unknown, options: CallOptions = {}) =>
      call(channel, definition, request, { timeoutMs, ...options });
    return [key, run];
  });
  return Object.fromEntries(calls);
}

function call(
  channel: Channel,
  { path, requestSerialize, responseDeserialize }: MethodDefinition<unknown, unknown>,
  request: unknown,
  { timeoutMs = 0, signal }: CallOptions,
): Promise<unknown> {
  const options = timeoutMs > 0 ? { deadline: Date.now() + timeoutMs } : {};
  return new Promise((resolve, reject) => {
    const running = channel.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      new Metadata(),
      options,
      (error, response) => {
        signal?.removeEventListener("abort", cancel);
        if (error === null) resolve(response);
        else reject(fromStatus(error.code, error.details));
      },
    );
    const cancel = () => running.cancel();
    signal?.addEventListener("abort", cancel);
    if (signal?.aborted) cancel();
  });
}
