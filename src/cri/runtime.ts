import { messageOf } from "../error.ts";
import { CgroupDriver } from "../gen/runtime/v1/runtime_pb.ts";
import type { RuntimeServiceDefinition } from "../gen/runtime/v1/runtime_service_pb.ts";
import { RUNTIME_API_VERSION, RUNTIME_NAME, VERSION } from "../version.ts";
import type { CriContext } from "./context.ts";
import type { ServiceImpl } from "./service.ts";

/** Version, Status, RuntimeConfig. */
export function runtimeRpcs({ core, streaming }: CriContext) {
  return {
    /** The request's version is the kubelet's own API version: nothing to check it against. */
    version() {
      return {
        version: "0.1.0",
        runtimeName: RUNTIME_NAME,
        runtimeVersion: VERSION,
        runtimeApiVersion: RUNTIME_API_VERSION,
      };
    },

    async status({ verbose }) {
      const [runtime, network, handlers] = await Promise.all([
        runtimeCondition(core),
        core.network.status(),
        handlerList(core),
      ]);
      return {
        status: { conditions: [runtime, { type: "NetworkReady", ...condition(network) }] },
        runtimeHandlers: handlers,
        features: { supplementalGroupsPolicy: true, mountOptions: true },
        info: verbose ? { info: JSON.stringify(await verboseInfo(core, streaming)) } : {},
      };
    },

    runtimeConfig() {
      const cgroupDriver =
        core.cgroupDriver === "systemd" ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS;
      return { linux: { cgroupDriver } };
    },
  } satisfies ServiceImpl<typeof RuntimeServiceDefinition>;
}

type Core = CriContext["core"];

/** For people; a plugin may say anything. */
const MESSAGE_LIMIT = 4096;

function condition({
  ready,
  reason,
  message,
}: {
  ready: boolean;
  reason: string;
  message: string;
}) {
  return { status: ready, reason, message: message.slice(0, MESSAGE_LIMIT) };
}

/** Ready when the default handler has made a container on this host. */
async function runtimeCondition(core: Core) {
  try {
    await core.handlers.get("");
    return { type: "RuntimeReady", status: true, reason: "", message: "" };
  } catch (error) {
    const message = messageOf(error);
    return { type: "RuntimeReady", status: false, reason: "RuntimeNotReady", message };
  }
}

/** Handlers that work, the default one also under the name "", as the kubelet asks for it. */
async function handlerList(core: Core) {
  const working = (await core.handlers.list()).filter(({ problem }) => problem === "");
  const handlers = await Promise.all(
    working.map(async ({ name }) => {
      const features = await core.handlers.find(name)?.features();
      const recursiveReadOnlyMounts = features?.recursiveReadOnlyMounts ?? false;
      return { name, features: { recursiveReadOnlyMounts, userNamespaces: false } };
    }),
  );
  const preferred = await core.handlers.defaultName().catch(() => "");
  const fallback = handlers.find(({ name }) => name === preferred);
  return fallback === undefined ? handlers : [{ ...fallback, name: "" }, ...handlers];
}

async function verboseInfo(core: Core, streaming: CriContext["streaming"]) {
  const { crib, network } = core.config;
  // Not the environment: it may hold secrets.
  const { default_env: _, ...runtime } = core.config.runtime;
  return {
    version: VERSION,
    pid: process.pid,
    uptimeSeconds: Math.round(process.uptime()),
    config: { crib, runtime, network },
    cgroups: { version: core.cgroups.version, driver: core.cgroupDriver },
    handlers: await core.handlers.list(),
    defaultHandler: await core.handlers.defaultName().catch(() => ""),
    operations: core.operations.list(),
    pulls: core.images.progress.list(),
    sessions: streaming.sessions(),
    damaged: core.store.damaged,
  };
}
