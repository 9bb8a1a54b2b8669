/** What a registry is told about who asks. */
import { hubAsOne } from "../config/auth-file.ts";
import { CribError } from "../error.ts";
import type { AuthConfig } from "../gen/runtime/v1/image_pb.ts";

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

/** The value of an Authorization header of the Basic scheme. */
export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}
