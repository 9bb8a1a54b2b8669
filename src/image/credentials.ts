/** What a registry is told about who asks. */
import { authFiles, findStoredAuth, hubAsOne } from "../config/auth-file.ts";
import { CribError } from "../error.ts";
import type { AuthConfig } from "../gen/runtime/v1/image_pb.ts";
import { askHelper } from "./credential-helper.ts";

/** None of its fields is ever logged or put into a message. */
export interface Credentials {
  username: string;
  password: string;
  /** An OAuth2 refresh token, exchanged at the token server. */
  identityToken: string;
  /** A bearer token to be sent as it is. */
  registryToken: string;
}

/** The fields of CRI's AuthConfig that count. */
export type Auth = Pick<
  AuthConfig,
  "username" | "password" | "auth" | "serverAddress" | "identityToken" | "registryToken"
>;

/**
 * Reads CRI's AuthConfig for a registry; undefined when it holds nothing, or is for another server.
 * `auth` is "user:password" in base64, as in Docker's config.json.
 *
 * @throws CribError InvalidArgument when `auth` is not that.
 */
export function toCredentials(
  auth: Partial<Auth> | undefined,
  registry: string,
): Credentials | undefined {
  if (auth === undefined) return undefined;
  if (auth.serverAddress && !isFor(auth.serverAddress, registry)) return undefined;
  const { identityToken = "", registryToken = "" } = auth;
  let { username = "", password = "" } = auth;
  if (username === "" && auth.auth) {
    // Docker pads with NULs at times.
    const text = Buffer.from(auth.auth, "base64").toString("utf8").replace(/\0+$/, "");
    const colon = text.indexOf(":");
    if (colon < 0)
      throw new CribError("InvalidArgument", "auth.auth is not base64 of user:password");
    username = text.slice(0, colon);
    password = text.slice(colon + 1);
  }
  if (username === "" && identityToken === "" && registryToken === "") return undefined;
  return { username, password, identityToken, registryToken };
}

function isFor(serverAddress: string, registry: string): boolean {
  const host = serverAddress.replace(/^[a-z]+:\/\//i, "").replace(/\/.*$/, "");
  return hubAsOne(host) === hubAsOne(registry);
}

/** The entry of `credential-helpers` in registries.conf that stands for the files. */
const FILES = "containers-auth.json";

/**
 * What this node itself knows about "host[:port]/repository": the first of the sources named in
 * registries.conf that has an answer (containers-auth.json(5), containers-registries.conf(5)).
 *
 * @throws CribError FailedPrecondition, Unavailable: see `findStoredAuth` and `askHelper`.
 */
export async function storedCredentials(
  name: string,
  { authFile, helpers }: { authFile: string; helpers: readonly string[] },
): Promise<Credentials | undefined> {
  const host = name.slice(0, name.indexOf("/"));
  for (const helper of helpers) {
    const found =
      helper === FILES ? await fromFiles(name, host, authFile) : await askHelper(helper, host);
    if (found !== undefined) return found;
  }
  return undefined;
}

async function fromFiles(
  name: string,
  host: string,
  authFile: string,
): Promise<Credentials | undefined> {
  const stored = findStoredAuth(authFiles(authFile), name);
  if (stored === undefined) return undefined;
  if (stored.kind === "helper") return askHelper(stored.helper, stored.serverUrl);
  return toCredentials(stored, host);
}

/** The value of an Authorization header of the Basic scheme. */
export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}
