/** gRPC services as the generated stubs describe them, for the daemon's server and the clients of `cli`. */
import type { MethodDefinition } from "@grpc/grpc-js";

/** What the stubs have for a message: its wire format, and its whole form from a part of it. */
export interface Codec {
  encode(message: unknown): { finish(): Uint8Array };
  decode(bytes: Uint8Array): unknown;
  fromPartial(part: unknown): unknown;
}

export interface Method {
  /** As the contract has it: "RunPodSandbox". */
  readonly name: string;
  readonly requestType: Codec;
  readonly responseType: Codec;
  readonly responseStream: boolean;
}

export interface Service {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, Method>>;
}

type Part<C extends Codec> = Parameters<C["fromPartial"]>[0];
type Whole<C extends Codec> = ReturnType<C["decode"]>;

/** What a client may leave out is the field's default, as everywhere in protobuf. */
export type RequestPart<M extends Method> = Part<M["requestType"]>;
export type Reply<M extends Method> = Whole<M["responseType"]>;

export interface CallContext {
  /** Aborted when the client has gone, or its deadline has passed. */
  readonly signal: AbortSignal;
}

type Sent<M extends Method> =
  | Part<M["responseType"]>
  | VerboseAnswer<Part<M["responseType"]>>
  | EncodedAnswer;

/** The answer to a verbose question: `info` becomes one JSON document under "info", as the peers have it. */
export class VerboseAnswer<A> {
  /** @param omitted names of what `info` could have and has not. */
  constructor(
    readonly answer: A,
    readonly info: object,
    readonly omitted: readonly string[] = [],
  ) {}
}

/** An answer that is in its wire format already: one so large that it must not be copied without need. */
export class EncodedAnswer {
  #bytes: Buffer | undefined;

  /** @param sent called once the client has taken it, or has gone. */
  constructor(
    bytes: Buffer,
    readonly sent: () => void,
  ) {
    this.#bytes = bytes;
  }

  /** The bytes, which are not kept here any longer. */
  take(): Buffer {
    const bytes = this.#bytes ?? Buffer.alloc(0);
    this.#bytes = undefined;
    return bytes;
  }
}

/** The names of a service's RPCs that answer once, as the stubs write them. */
export type Unary<S extends Service> = {
  [K in keyof S["methods"]]: S["methods"][K]["responseStream"] extends true ? never : K;
}[keyof S["methods"]];

/** RPCs of a service by their names, each from request to answer; those missing are Unimplemented. */
export type ServiceImpl<S extends Service> = {
  readonly [K in Unary<S>]?: (
    request: Whole<S["methods"][K]["requestType"]>,
    context: CallContext,
  ) => Sent<S["methods"][K]> | Promise<Sent<S["methods"][K]>>;
};

/** A message's bytes, from what the sender says of it. */
export function encode(codec: Codec, part: unknown): Buffer {
  const bytes = codec.encode(codec.fromPartial(part)).finish();
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** How @grpc/grpc-js wants to know a method. */
export function methodDefinition(
  service: Service,
  method: Method,
): MethodDefinition<unknown, unknown> {
  const { name, requestType, responseType, responseStream } = method;
  return {
    path: `/${service.fullName}/${name}`,
    requestStream: false,
    responseStream,
    requestSerialize: (request) => encode(requestType, request),
    requestDeserialize: (bytes) => requestType.decode(bytes),
    responseSerialize: (answer) =>
      answer instanceof EncodedAnswer ? answer.take() : encode(responseType, answer),
    responseDeserialize: (bytes) => responseType.decode(bytes),
  };
}
