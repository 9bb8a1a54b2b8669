/** What run.ts asks of inside.ts, which runs in private namespaces, and what that answers. */
import type { Case, Judged } from "./cases.ts";
import type { Programs } from "./programs.ts";

export interface Request {
  programs: Programs;
  chosen: Case[];
  /** For everything that the run makes; deleted afterwards. */
  directory: string;
  /** Where the logs and the report stay. */
  logs: string;
  /** An empty configuration of crictl: critest complains about a missing one. */
  crictlConfig: string;
  handler: string;
  /** Instead of Crib: "containerd" or a socket. */
  peer: string | undefined;
  /** Where the answer goes. */
  answer: string;
}

export interface Answer {
  judged: Judged[];
  seed: number;
  /** What went wrong beside the cases: things left behind, a daemon that died. */
  problems: string[];
}
