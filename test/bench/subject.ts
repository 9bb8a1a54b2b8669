/** What is measured of a CRI runtime, Crib or a peer. */

import type { CriClients } from "../../src/cli/cri-client.ts";
import { NamespaceMode } from "../../src/gen/runtime/v1/security_pb.ts";

/** A pod of one container that is up. */
export interface Pod {
  id: string;
  containerId: string;
}

export class Subject {
  #count = 0;

  constructor(
    readonly name: string,
    readonly clients: CriClients,
    readonly image: string,
    readonly cgroupParent: string,
  ) {}

  async pull(): Promise<void> {
    await this.clients.image.pullImage({ image: { image: this.image } });
  }

  /** RunPodSandbox (host network, its own IPC, no shared PIDs: like the kubelet's), CreateContainer, StartContainer. */
  async up(): Promise<Pod> {
    const { runtime } = this.clients;
    this.#count += 1;
    const name = `bench-${this.#count}`;
    const namespaceOptions = {
      network: NamespaceMode.NODE,
      pid: NamespaceMode.CONTAINER,
      ipc: NamespaceMode.POD,
    };
    const sandboxConfig = {
      metadata: { name, namespace: "bench", uid: `uid-${name}`, attempt: 0 },
      linux: { cgroupParent: this.cgroupParent, securityContext: { namespaceOptions } },
    };
    const { podSandboxId } = await runtime.runPodSandbox({ config: sandboxConfig });
    const { containerId } = await runtime.createContainer({
      podSandboxId,
      sandboxConfig,
      config: {
        metadata: { name, attempt: 0 },
        image: { image: this.image },
        command: ["/bin/sleep", "100000"],
        linux: { securityContext: { namespaceOptions } },
      },
    });
    await runtime.startContainer({ containerId });
    return { id: podSandboxId, containerId };
  }

  async exec(pod: Pod): Promise<void> {
    const { containerId } = pod;
    const { exitCode } = await this.clients.runtime.execSync({ containerId, cmd: ["/bin/true"] });
    if (exitCode !== 0) throw new Error(`${this.name}: /bin/true: exit code ${exitCode}`);
  }

  /** An immediate end, and nothing left. */
  async down(pod: Pod): Promise<void> {
    const { runtime } = this.clients;
    await runtime.stopContainer({ containerId: pod.containerId, timeout: 0n });
    await runtime.stopPodSandbox({ podSandboxId: pod.id });
    await runtime.removePodSandbox({ podSandboxId: pod.id });
  }
}
