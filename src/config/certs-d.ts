/** Certificates for single registries: containers-certs.d(5), also as Docker keeps them. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { CribError } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { ifThere } from "./if-there.ts";

/** PEM texts. */
export interface RegistryCertificates {
  /** CAs to trust besides the system's. */
  ca: string[];
  /** What Crib shows of itself. */
  client?: { certificate: string; key: string };
}

/**
 * Reads `HOST[:PORT]` below the first of `directories` that has it. As the containers tools do, the
 * other directories then do not count.
 *
 * @throws CribError FailedPrecondition: a certificate without its key, or the other way round.
 */
export function readCertificates(
  directories: readonly string[],
  host: string,
): RegistryCertificates {
  for (const parent of directories) {
    const directory = join(parent, host);
    const names = ifThere(() => readdirSync(directory));
    if (names !== undefined) return readDirectory(directory, names.sort());
  }
  return { ca: [] };
}

function readDirectory(directory: string, names: readonly string[]): RegistryCertificates {
  const read = (name: string) => readRegularFile(join(directory, name)).toString();
  const stems = (ending: string) =>
    names.filter((name) => name.endsWith(ending)).map((name) => name.slice(0, -ending.length));
  const [certificates, keys] = [stems(".cert"), stems(".key")];
  const alone = (one: readonly string[], other: readonly string[]) =>
    one.find((stem) => !other.includes(stem));
  const missing = [
    [alone(certificates, keys), ".cert", ".key"],
    [alone(keys, certificates), ".key", ".cert"],
  ].find(([stem]) => stem !== undefined);
  if (missing !== undefined) {
    const [stem, there, absent] = missing;
    throw new CribError(
      "FailedPrecondition",
      `${join(directory, `${stem}${there}`)}: there is no ${stem}${absent}`,
    );
  }
  const [stem, second] = certificates;
  if (second !== undefined) {
    throw new CribError(
      "FailedPrecondition",
      `${directory}: ${stem}.cert and ${second}.cert: Crib shows one certificate only`,
    );
  }
  return {
    ca: stems(".crt").map((name) => read(`${name}.crt`)),
    client:
      stem === undefined
        ? undefined
        : { certificate: read(`${stem}.cert`), key: read(`${stem}.key`) },
  };
}

/** Where distributions keep the CAs that the whole machine trusts. */
const SYSTEM_BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

/** The machine's CAs as PEM; undefined where it has none (then Bun's built-in ones count). */
export function systemCertificates(
  env: Readonly<Record<string, string | undefined>> = process.env,
): string | undefined {
  for (const path of env.SSL_CERT_FILE ? [env.SSL_CERT_FILE] : SYSTEM_BUNDLES) {
    const bundle = ifThere(() => readRegularFile(path).toString());
    if (bundle?.includes("-----BEGIN")) return bundle;
  }
  return undefined;
}
