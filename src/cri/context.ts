import type { Core } from "../container/core.ts";
import type { StatsReader } from "../stats/reader.ts";

import type { SessionView } from "../streaming/server.ts";
import type { StreamingRequest } from "../streaming/upgrade.ts";

/** The streaming server as the RPCs see it; it is started when it is needed. */
export interface Streaming {
  /** Where a client may connect, once. @throws CribError ResourceExhausted */
  url(request: StreamingRequest): Promise<string>;
  /** Who is connected, the oldest first. */
  sessions(): SessionView[];
  /** Ends all sessions; their clients are told. */
  close(): Promise<void>;
}

/** What the RPCs answer from. */
export interface CriContext {
  readonly core: Core;
  readonly stats: StatsReader;
  readonly streaming: Streaming;
  /** Resolves when what was recorded has been brought in line with what is. */
  readonly recovered: Promise<void>;
}
