/** What a pull does; loaded when the first image is pulled, for a daemon that restarts pulls nothing. */
import type { Config } from "../config/config.ts";
import type { Requirement } from "../config/policy.ts";
import type { Registries } from "../config/registries-conf.ts";
import { signatureStorageOf } from "../config/registries-d.ts";
import { CribError, messageOf } from "../error.ts";
import { log } from "../observe/log.ts";
import type { Bandwidth } from "./bandwidth.ts";
import type { Auth } from "./credentials.ts";
import { exemptLoopback } from "./http.ts";
import type { ImageBuilder } from "./image-builder.ts";
import type { Image } from "./image-store.ts";
import { hostPlatform } from "./platform.ts";
import type { PullProgress } from "./progress.ts";
import { formatReference, nameOf, type Reference } from "./reference.ts";
import type { RegistryClient } from "./registry.ts";
import { noProgressMs, registryClients, tlsFor } from "./registry-access.ts";
import { pullError, resolveImage } from "./resolve.ts";
import type { Signature } from "./signature.ts";
import { findSignatures } from "./signature-source.ts";
import {
  policyPaths,
  refuseRejected,
  requirementsOf,
  requireTrust,
  wantSignatures,
} from "./trust.ts";

export interface PullRequest {
  references: readonly Reference[];
  registries: Registries;
  auth: Partial<Auth> | undefined;
  /** Of the pod that the image is for; "" when nobody knows. */
  namespace: string;
  progress: PullProgress;
  signal: AbortSignal;
}

export class Puller {
  readonly #config: Config["image"];
  readonly #builder: ImageBuilder;
  readonly #bandwidth: Bandwidth | undefined;

  constructor(options: {
    config: Config["image"];
    builder: ImageBuilder;
    bandwidth: Bandwidth | undefined;
  }) {
    exemptLoopback();
    this.#config = options.config;
    this.#builder = options.builder;
    this.#bandwidth = options.bandwidth;
  }

  /**
   * One pull from beginning to end; see `Images.pull` for its errors. Of several references, which a
   * short name may stand for, the first that can be pulled counts.
   */
  async pull(request: PullRequest): Promise<Image> {
    const failures: CribError[] = [];
    for (const reference of request.references) {
      try {
        return await this.#pullOne(reference, request);
      } catch (error) {
        if (request.signal.aborted || !(error instanceof CribError)) throw error;
        failures.push(error);
      }
    }
    const [first] = failures;
    if (first === undefined) throw new CribError("Internal", "pull: no reference");
    if (failures.length === 1) throw first;
    throw new CribError(first.code, failures.map(({ message }) => message).join("; "));
  }

  async #pullOne(reference: Reference, request: PullRequest): Promise<Image> {
    const startedAt = performance.now();
    const { progress, signal } = request;
    const requirements = requirementsOf(policyPaths(this.#config), request.namespace, reference);
    refuseRejected(requirements, reference);
    // Of several registries that a short name may mean, the credentials must say which they are for.
    const ambiguous = request.references.length > 1 && !request.auth?.serverAddress;
    const clients = registryClients(this.#config, request.registries, {
      ...request,
      auth: ambiguous ? undefined : request.auth,
      reference,
      bandwidth: this.#bandwidth,
    });
    const resolved = await resolveImage(reference, clients, hostPlatform(), signal);
    const signatures = await this.#signatures(reference, resolved, requirements, signal);
    const { digests } = resolved;
    await requireTrust(requirements, reference, { digests, signatures });
    const byDigest = `${nameOf(reference)}@${resolved.digest}`;
    const names = [byDigest];
    if (reference.digest === undefined) names.push(formatReference(reference));
    const build = { resolved, names, source: { name: byDigest, signatures }, progress, signal };
    try {
      const image = await this.#builder.build(build, resolved.clients);
      const durationMs = Math.round(performance.now() - startedAt);
      log().info({ image: formatReference(reference), imageId: image.id, durationMs }, "pulled");
      return image;
    } catch (error) {
      if (signal.aborted || !(error instanceof CribError)) throw error;
      throw pullError(reference, [error]);
    }
  }

  /**
   * All signatures, also when this policy wants none: that of a namespace may later. Then only is it
   * no error that they cannot be had.
   */
  async #signatures(
    reference: Reference,
    { clients: [client], digests }: { clients: RegistryClient[]; digests: string[] },
    requirements: readonly Requirement[],
    signal: AbortSignal,
  ): Promise<Signature[]> {
    if (client === undefined) return [];
    const { host, repository } = client.source;
    const suffix = formatReference(reference).slice(nameOf(reference).length);
    try {
      const directory = this.#config.registries_d;
      const storage = signatureStorageOf(directory, `${host}/${repository}`, suffix);
      const tls = tlsFor(this.#config.certs_dirs);
      const http = { tls, noProgressMs: noProgressMs(this.#config), signal };
      return await findSignatures(storage, { client, repository, digests }, http);
    } catch (error) {
      if (signal.aborted || wantSignatures(requirements)) throw error;
      const image = formatReference(reference);
      log().warn({ image, error: messageOf(error) }, "the image's signatures cannot be read");
      return [];
    }
  }
}
