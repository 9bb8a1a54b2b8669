import type { Core } from "../container/core.ts";
import type { StatsReader } from "../stats/reader.ts";

/** What the RPCs answer from. */
export interface CriContext {
  readonly core: Core;
  readonly stats: StatsReader;
  /** Resolves when what was recorded has been brought in line with what is. */
  readonly recovered: Promise<void>;
}
