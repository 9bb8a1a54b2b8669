/** From configuration files to clients: which registries to ask for an image, with what in hand. */
import { rootCertificates } from "node:tls";
import { readCertificates, systemCertificates } from "../config/certs-d.ts";
import type { Config } from "../config/config.ts";
import { type Registries, type Source, sourcesOf } from "../config/registries-conf.ts";
import type { Bandwidth } from "./bandwidth.ts";
import { type Auth, toCredentials } from "./credentials.ts";
import type { TlsOptions } from "./http.ts";
import type { Reference } from "./reference.ts";
import { RegistryClient, serverOf } from "./registry.ts";
import { storedCredentials } from "./stored-credentials.ts";

/** Stands for "never" in a timer. */
const NEVER_MS = 2 ** 31 - 1;

/** `image.no_progress_timeout_seconds`, for timers. */
export function noProgressMs(config: Config["image"]): number {
  const seconds = config.no_progress_timeout_seconds;
  return seconds === 0 ? NEVER_MS : seconds * 1000;
}

/**
 * Clients of the places that may have the image, in the order to ask them. The request's credentials
 * are for the registry that the image's name names, not for its mirrors, nor for another one that
 * registries.conf puts in its place; those, and requests without, get what the node's own files and
 * helpers know.
 *
 * @throws CribError PermissionDenied: registries.conf blocks the image; FailedPrecondition: certs.d.
 */
export function registryClients(
  config: Config["image"],
  registries: Registries,
  request: {
    reference: Reference;
    auth: Partial<Auth> | undefined;
    bandwidth: Bandwidth | undefined;
    signal: AbortSignal;
  },
): RegistryClient[] {
  const { reference, auth, bandwidth, signal } = request;
  const given = toCredentials(auth, reference.registry);
  return sourcesOf(registries.rules, reference).map(
    (source) =>
      new RegistryClient({
        source,
        credentials: async () =>
          (source.mirror || source.host !== reference.registry ? undefined : given) ??
          (await storedCredentials(`${source.host}/${source.repository}`, {
            authFile: config.auth_file,
            helpers: registries.credentialHelpers,
          })),
        tls: tlsOf(config.certs_dirs, source),
        noProgressMs: noProgressMs(config),
        bandwidth,
        signal,
      }),
  );
}

/** Certificates for servers that are no registries: each its own. */
export function tlsFor(directories: readonly string[]): (host: string) => TlsOptions {
  return (host) => {
    const { ca, client } = readCertificates(directories, host);
    return {
      ...trusted(systemCertificates(), ca),
      ...(client && { cert: client.certificate, key: client.key }),
    };
  };
}

/**
 * A registry's CAs also count with the servers it sends its callers to; its client certificate is shown
 * to none of them.
 */
function tlsOf(directories: readonly string[], source: Source): (host: string) => TlsOptions {
  const own = readCertificates(directories, source.host);
  const system = systemCertificates();
  // As URLs write it: without the port of https.
  const server = new URL(`https://${serverOf(source.host)}`).host;
  const options = (host: string): TlsOptions => {
    const theirs = host === server ? own : readCertificates(directories, host);
    const ca = [...new Set([...own.ca, ...theirs.ca])];
    const { client } = theirs;
    return {
      ...trusted(system, ca),
      ...(client && { cert: client.certificate, key: client.key }),
    };
  };
  const known = new Map<string, TlsOptions>();
  return (host) => {
    const found = known.get(host) ?? options(host);
    known.set(host, found);
    return found;
  };
}

function trusted(system: string | undefined, extra: readonly string[]): Pick<TlsOptions, "ca"> {
  if (system !== undefined) return { ca: [system, ...extra] };
  return extra.length === 0 ? {} : { ca: [...rootCertificates, ...extra] };
}
