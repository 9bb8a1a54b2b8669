/** In the virtual machine: a kubelet without an API server, fed with static pods, on Crib's socket. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { busybox, Crib, type Settings, sh, socket, until } from "./node.ts";

const manifests = "/etc/kubernetes/manifests";
export const kubeletAddress = "https://127.0.0.1:10250";

const configuration = {
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  staticPodPath: manifests,
  containerRuntimeEndpoint: `unix://${socket}`,
  cgroupDriver: "systemd",
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: "AlwaysAllow" },
  failSwapOn: false,
  fileCheckFrequency: "1s",
  seccompDefault: true,
  evictionHard: { "memory.available": "50Mi" },
};

const unit = `[Unit]
Description=kubelet
RequiresMountsFor=/mnt/crib

[Service]
ExecStart=/mnt/crib/bin/kubelet --config /etc/kubernetes/kubelet.json --hostname-override node --node-ip 10.0.2.15
KillMode=process
Restart=always
RestartSec=1
StartLimitIntervalSec=0

[Install]
WantedBy=multi-user.target
`;

interface Terminated {
  exitCode: number;
  signal?: number;
  reason?: string;
  message?: string;
  startedAt?: string;
  finishedAt?: string;
}

interface State {
  running?: { startedAt: string };
  waiting?: { reason?: string; message?: string };
  terminated?: Terminated;
}

/** v1.ContainerStatus, as far as the cases look. */
export interface ContainerStatus {
  name: string;
  ready: boolean;
  started?: boolean;
  restartCount: number;
  containerID?: string;
  imageID?: string;
  state: State;
  lastState: State;
  resources?: { limits?: Record<string, string> };
}

/** v1.PodStatus, as far as the cases look. */
export interface PodStatus {
  phase: string;
  podIP?: string;
  podIPs?: Array<{ ip: string }>;
  conditions?: Array<{ type: string; status: string }>;
  initContainerStatuses?: ContainerStatus[];
  containerStatuses?: ContainerStatus[];
}

interface PodItem {
  metadata: { name: string; uid: string };
  status: PodStatus;
}

/** Parts of v1.PodSpec and v1.Container, by their names in Kubernetes. */
export type Fields = Record<string, unknown>;

/** A shell that ends at SIGTERM. */
export const stay = "trap 'exit 0' TERM; sleep 100000 & wait";

/** A container `name` that runs a shell script. */
export function shell(script: string, fields: Fields = {}): Fields {
  return { name: "main", image: busybox, command: ["sh", "-c", script], ...fields };
}

export class Kubelet {
  /** Settings of Crib for all kubelets of a file. */
  static settings: Settings = {};
  #stopped = false;

  private constructor(readonly crib: Crib) {}

  /** Starts Crib and the kubelet with `changes` to its configuration, and waits until both answer. */
  static async start(changes: Fields = {}, settings: Settings = {}): Promise<Kubelet> {
    const crib = await Crib.start({ ...Kubelet.settings, ...settings });
    await crib.image.pullImage({ image: { image: busybox } });
    rmSync(manifests, { recursive: true, force: true });
    mkdirSync(manifests, { recursive: true });
    writeFileSync("/etc/kubernetes/kubelet.json", JSON.stringify({ ...configuration, ...changes }));
    writeFileSync("/etc/systemd/system/kubelet.service", unit);
    sh("systemctl", "daemon-reload");
    sh("systemctl", "restart", "kubelet");
    return Kubelet.found(crib);
  }

  /** The kubelet that runs already. */
  static async found(crib = new Crib()): Promise<Kubelet> {
    const kubelet = new Kubelet(crib);
    await crib.answers();
    await until("the kubelet's health", async () => (await kubelet.get("/healthz")) === "ok");
    return kubelet;
  }

  /** The text of an answer; undefined when there is none or it is an error. */
  async get(path: string): Promise<string | undefined> {
    try {
      const answer = await fetch(kubeletAddress + path, { tls: { rejectUnauthorized: false } });
      return answer.ok ? await answer.text() : undefined;
    } catch {
      return undefined; // not up
    }
  }

  /** Gives it a static pod: a spec, or the script of its only container. */
  apply(name: string, spec: Fields | string, metadata: Fields = {}): void {
    const body = typeof spec === "string" ? { containers: [shell(spec)] } : spec;
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, namespace: "default", ...metadata },
      spec: { terminationGracePeriodSeconds: 30, ...body },
    };
    // Renamed into place: the kubelet reads the directory at any moment, but not dot files.
    writeFileSync(join(manifests, `.${name}`), JSON.stringify(pod));
    sh("mv", join(manifests, `.${name}`), join(manifests, `${name}.json`));
  }

  private async items(): Promise<PodItem[] | undefined> {
    const text = await this.get("/pods");
    return text === undefined ? undefined : ((JSON.parse(text).items ?? []) as PodItem[]);
  }

  async status(name: string): Promise<PodStatus | undefined> {
    return (await this.items())?.find((it) => it.metadata.name === `${name}-node`)?.status;
  }

  /** Waits until the pod's status is as wanted; says in its error what it was instead. */
  async reaches(
    name: string,
    what: string,
    wanted: (status: PodStatus) => unknown,
    limitMs = 180_000,
  ): Promise<PodStatus> {
    let last: PodStatus | undefined;
    const look = async () => {
      last = await this.status(name);
      return last !== undefined && wanted(last) ? last : undefined;
    };
    try {
      return await until(`${name} ${what}`, look, limitMs);
    } catch (error) {
      const seen = JSON.stringify(last?.containerStatuses ?? last, null, 1);
      throw new Error(`${error instanceof Error ? error.message : error}; it is ${seen}`);
    }
  }

  /** Waits until all containers of the pod are ready. */
  ready(name: string, limitMs?: number): Promise<PodStatus> {
    const isReady = (status: PodStatus) =>
      status.conditions?.some((it) => it.type === "Ready" && it.status === "True");
    return this.reaches(name, "is ready", isReady, limitMs);
  }

  /** Waits until the pod's only container has ended, and gives how. */
  async ends(name: string): Promise<Terminated> {
    const status = await this.reaches(
      name,
      "has ended",
      (it) => it.containerStatuses?.[0]?.state.terminated,
    );
    const terminated = status.containerStatuses?.[0]?.state.terminated;
    if (terminated === undefined) throw new Error(`${name} has not ended`);
    return terminated;
  }

  /** The log of a container, by the kubelet. */
  async logs(name: string, query = "", container = "main"): Promise<string> {
    return (await this.get(`/containerLogs/default/${name}-node/${container}${query}`)) ?? "";
  }

  /** Runs a pod whose script ends by itself, and gives its log. */
  async outputOf(name: string, spec: Fields | string): Promise<string> {
    const body = typeof spec === "string" ? { containers: [shell(spec)] } : spec;
    this.apply(name, { restartPolicy: "Never", ...body });
    const { exitCode, message } = await this.ends(name);
    const log = await this.logs(name);
    if (exitCode !== 0) throw new Error(`${name} ended with ${exitCode}: ${message ?? ""}${log}`);
    await this.remove(name);
    return log.trim();
  }

  /** Takes the pod away and waits until the kubelet has forgotten it and Crib has nothing of it. */
  async remove(name: string): Promise<void> {
    rmSync(join(manifests, `${name}.json`), { force: true });
    await until(`${name} is gone`, async () => {
      const items = await this.items();
      if (items === undefined || items.some((it) => it.metadata.name === `${name}-node`))
        return false;
      const labelSelector = { "io.kubernetes.pod.name": `${name}-node` };
      const { containers } = await this.crib.runtime.listContainers({
        filter: { labelSelector, state: { state: 1 } },
      });
      return containers.length === 0;
    });
  }

  /** Takes all pods away, and those that the kubelet would keep a minute more; then ends it. Idempotent. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    for (const name of readdirSync(manifests)) rmSync(join(manifests, name));
    await until("no pods", async () => (await this.items())?.length === 0, 300_000);
    sh("systemctl", "stop", "kubelet");
    await this.crib.removeAll();
  }
}

/** A directory of the node for a pod's hostPath volume. */
export function hostDirectory(name: string): string {
  const directory = `/var/tmp/pods/${name}`;
  mkdirSync(directory, { recursive: true });
  return directory;
}

export function readHostFile(name: string, file: string): string {
  return readFileSync(join("/var/tmp/pods", name, file), "utf8").trim();
}
