/** Whether the node's network can take pods: configuration, plugins, versions, and CNI's STATUS. */
import { messageOf } from "../error.ts";
import { requestConfig } from "./chain.ts";
import type { ConfDir } from "./conf-dir.ts";
import { stamp } from "./conf-dir.ts";
import { atLeast, type CniNetwork, type ConfList } from "./conflist.ts";
import type { Plugins } from "./plugin.ts";

/** A network that pods can be attached to, or why there is none. */
export type Readiness =
  | { network: CniNetwork; fingerprint: string }
  | { problem: string; missing: boolean };

/** The CRI condition NetworkReady. */
export interface NetworkStatus {
  ready: boolean;
  /** A word for machines; "" when ready. */
  reason: string;
  /** A sentence for people; "" when ready. */
  message: string;
}

const REASON = "NetworkPluginNotReady";
/** An answer to STATUS is used this long: the kubelet asks every few seconds, each costs processes. */
const STATUS_KEPT_MS = 10_000;

/** Keeps what is known about the configured network, and finds out again when files change. */
export class Readies {
  #known: { fingerprint: string; readiness: Promise<Readiness> } | undefined;
  #status: { fingerprint: string; answer: Promise<string | undefined>; until: number } | undefined;

  constructor(
    readonly confDir: ConfDir,
    readonly plugins: Plugins,
  ) {}

  /** The network as configured now, with every plugin found and a version that all of them speak. */
  current(): Promise<Readiness> {
    const configured = this.confDir.read();
    if ("problem" in configured) {
      const { problem, missing } = configured;
      return Promise.resolve({ problem, missing });
    }
    const { list, file } = configured;
    const paths = pluginTypes(list).map((type) => ({ type, path: this.plugins.find(type) }));
    const absent = paths.filter(({ path }) => path === undefined).map(({ type }) => type);
    if (absent.length > 0) {
      const where = this.plugins.binDirs.join(", ");
      const names = absent.join(", ");
      const problem = `${file}: CNI plugin ${names}: no such executable in ${where}`;
      return Promise.resolve({ problem, missing: false });
    }
    const stamps = paths.map(({ path }) => stamp(path ?? ""));
    const fingerprint = [configured.fingerprint, ...stamps].join("\n");
    if (this.#known?.fingerprint !== fingerprint) {
      this.#known = { fingerprint, readiness: this.#negotiate(list, file, fingerprint) };
    }
    return this.#known.readiness;
  }

  async status(): Promise<NetworkStatus> {
    const readiness = await this.current();
    if ("problem" in readiness) {
      return { ready: false, reason: REASON, message: readiness.problem };
    }
    const problem = await this.#ask(readiness.network, readiness.fingerprint);
    if (problem !== undefined) return { ready: false, reason: REASON, message: problem };
    return { ready: true, reason: "", message: "" };
  }

  /** Chooses the newest version that the configuration allows and every plugin speaks. */
  async #negotiate(list: ConfList, file: string, fingerprint: string): Promise<Readiness> {
    const types = [...new Set(list.plugins.map((plugin) => plugin.type))];
    const spoken = await Promise.all(
      types.map(async (type) => ({ type, versions: await this.plugins.versions(type) })),
    );
    const speaks = (version: string) =>
      spoken.filter(({ versions }) => versions !== undefined && !versions.includes(version));
    const version = list.versions.find((candidate) => speaks(candidate).length === 0);
    if (version === undefined) {
      const asked = list.versions.join(", ");
      const refusals = speaks(list.versions[0] ?? "")
        .map(({ type, versions }) => `${type} speaks ${versions?.join(", ")}`)
        .join("; ");
      return { problem: `${file}: cniVersion ${asked}: CNI plugin ${refusals}`, missing: false };
    }
    const { name, disableGC, plugins } = list;
    return { network: { name, cniVersion: version, disableGC, plugins }, fingerprint };
  }

  /** Asks the plugins of a 1.1 network for their STATUS; `undefined` means ready. */
  #ask(network: CniNetwork, fingerprint: string): Promise<string | undefined> {
    if (!atLeast(network.cniVersion, "1.1.0")) return Promise.resolve(undefined);
    const last = this.#status;
    if (last !== undefined && last.fingerprint === fingerprint && Date.now() < last.until) {
      return last.answer;
    }
    const asked = { fingerprint, answer: this.#askAll(network), until: Number.POSITIVE_INFINITY };
    this.#status = asked;
    // Only a good answer is kept: a node that becomes ready is told at once.
    void asked.answer.then((problem) => {
      asked.until = problem === undefined ? Date.now() + STATUS_KEPT_MS : 0;
    });
    return asked.answer;
  }

  async #askAll(network: CniNetwork): Promise<string | undefined> {
    for (const plugin of network.plugins) {
      try {
        const config = requestConfig(network, plugin);
        const subject = `network ${network.name}`;
        await this.plugins.call({ verb: "STATUS", type: plugin.type, config, env: {}, subject });
      } catch (error) {
        return messageOf(error);
      }
    }
    return undefined;
  }
}

/** The executables that a network needs, those of its address management too. */
function pluginTypes(list: ConfList): string[] {
  const types = list.plugins.flatMap(({ type, ipam }) =>
    ipam?.type === undefined || ipam.type === "" ? [type] : [type, ipam.type],
  );
  return [...new Set(types)];
}
