/** The socket on which the cAdvisor inside the kubelet looks for CRI-O. */
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { cadvisorHandler } from "../cadvisor/handler.ts";
import type { Core } from "../container/core.ts";
import { messageOf } from "../error.ts";
import { tryLock } from "../linux/lock.ts";
import { log } from "../observe/log.ts";
import { answers } from "./socket.ts";

/** cAdvisor's questions have no body. */
const MAX_BODY_BYTES = 1024;

/**
 * Starts to answer cAdvisor on `cadvisor.socket` (mode 0600). Where a CRI-O or another Crib has that
 * path, where it cannot be had, or where it is "", the log says so and nothing is served: metrics are
 * no reason not to run pods.
 *
 * @returns the way to stop and to take the socket away.
 */
export async function serveCadvisor(core: Core): Promise<() => void> {
  const path = core.config.cadvisor.socket;
  const nothing = () => undefined;
  if (path === "") {
    log().info("cadvisor.socket is empty: the kubelet's own metrics show no pods of Crib");
    return nothing;
  }
  try {
    const place = await takePlace(path, core.config.crib.socket);
    if (typeof place !== "string") return start(core, path, place.marker);
    log().warn({ socket: path }, `cadvisor.socket: off, ${place}`);
  } catch (error) {
    log().warn({ socket: path, error: messageOf(error) }, "cadvisor.socket: off, not to be had");
  }
  return nothing;
}

/**
 * Makes way for our socket, or says why it is not ours to take. The open, locked file `PATH.crib` is
 * ours while we serve; it names the socket, so that the next daemon knows a dead one of Crib's.
 */
async function takePlace(path: string, criSocket: string): Promise<string | { marker: number }> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  if (samePath(path, criSocket)) return "it is also crib.socket";
  const marker = openSync(markerOf(path), "a", 0o600);
  const refuse = (why: string) => {
    closeSync(marker);
    return why;
  };
  if (!tryLock(marker)) return refuse("another Crib answers the kubelet there");
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return { marker };
  // What is not ours keeps its directory as it was.
  const foreign = (why: string) => {
    rmSync(markerOf(path), { force: true });
    return refuse(why);
  };
  if (!stat.isSocket()) return foreign("something that is no socket is there");
  if (await answers(path)) {
    return foreign(
      'another runtime answers there (CRI-O?); cadvisor.socket = "" ends this warning',
    );
  }
  if (readFileSync(markerOf(path), "utf8") !== identityOf(path)) {
    return foreign("the socket of another runtime is there; remove it if that runtime is gone");
  }
  rmSync(path);
  return { marker };
}

function start(core: Core, path: string, marker: number): () => void {
  const { root } = core.config.crib;
  const umask = process.umask(0o177);
  let server: Bun.Server<undefined>;
  try {
    server = Bun.serve({
      unix: path,
      fetch: cadvisorHandler({ core, storageRoot: root, emptyRoot: emptyRoot(root) }),
      maxRequestBodySize: MAX_BODY_BYTES,
      development: false,
    });
  } catch (error) {
    rmSync(markerOf(path), { force: true });
    closeSync(marker);
    throw error;
  } finally {
    process.umask(umask);
  }
  chmodSync(path, 0o600);
  const identity = identityOf(path);
  ftruncateSync(marker);
  writeSync(marker, identity);
  log().info({ socket: path }, "answering the kubelet's cAdvisor");
  return () => {
    // A CRI-O that came later has put its own there: that stays.
    if (identityOf(path) === identity) {
      void server.stop(true);
      rmSync(path, { force: true });
    }
    rmSync(markerOf(path), { force: true });
    closeSync(marker);
  };
}

/** Pods have no root file system, and cAdvisor measures one. */
function emptyRoot(root: string): string {
  const directory = join(root, "cadvisor");
  mkdirSync(join(directory, "diff"), { recursive: true, mode: 0o700 });
  return join(directory, "merged");
}

function markerOf(path: string): string {
  return `${path}.crib`;
}

function identityOf(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? "" : `${stat.dev}:${stat.ino}`;
}

/** /var/run is a link to /run. */
function samePath(one: string, other: string): boolean {
  const real = (path: string) => {
    try {
      return join(realpathSync(dirname(path)), basename(path));
    } catch {
      return path;
    }
  };
  return real(one) === real(other);
}
