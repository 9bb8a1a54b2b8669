/** Bearer tokens (distribution's token specification, and its OAuth2 form for identity tokens). */
import * as v from "valibot";
import { goStruct, text } from "../config/go-json.ts";
import { CribError } from "../error.ts";
import type { Challenge } from "./challenge.ts";
import { basicAuthorization, type Credentials } from "./credentials.ts";
import {
  type HttpResponse,
  type RequestOptions,
  readBody,
  request,
  retryAfterMs,
  UnavailableError,
} from "./http.ts";

const RESPONSE_LIMIT_BYTES = 256 * 1024;

/** Which of the two has it differs. When it expires is not looked at: the registry asks again. */
const tokenResponse = goStruct({ token: text, access_token: text });

/**
 * Asks the token server that a Bearer challenge names for the right to pull `repository`.
 * Returns the value of the Authorization header.
 */
export async function fetchToken(
  challenge: Challenge,
  options: {
    repository: string;
    credentials: Credentials | undefined;
    http: Omit<RequestOptions, "headers" | "method" | "body">;
    /** Whether a token server on this host ("name:port") may be asked over plain http. */
    plainAllowed: (host: string) => boolean;
  },
): Promise<string> {
  const realm = readRealm(challenge, options.plainAllowed);
  const parameters = new URLSearchParams();
  const service = challenge.parameters.get("service");
  if (service !== undefined) parameters.set("service", service);
  const scope = challenge.parameters.get("scope") ?? `repository:${options.repository}:pull`;
  parameters.set("scope", scope);
  const response = await ask(realm, parameters, options);
  return readToken(response, realm);
}

function readRealm(challenge: Challenge, plainAllowed: (host: string) => boolean): URL {
  const written = challenge.parameters.get("realm") ?? "";
  const realm = URL.canParse(written) ? new URL(written) : undefined;
  const plain = realm?.protocol === "http:" && plainAllowed(realm.host);
  // The peers take http as well; but then who listens has the password.
  if (realm === undefined || !(realm.protocol === "https:" || plain)) {
    throw new CribError(
      "FailedPrecondition",
      `the registry's token server ${JSON.stringify(written.slice(0, 200))} is no https address`,
    );
  }
  return realm;
}

function ask(
  realm: URL,
  parameters: URLSearchParams,
  { credentials, http }: Parameters<typeof fetchToken>[1],
): Promise<HttpResponse> {
  if (credentials !== undefined && credentials.identityToken !== "") {
    parameters.set("grant_type", "refresh_token");
    parameters.set("refresh_token", credentials.identityToken);
    parameters.set("client_id", "crib");
    return request(realm.href, {
      ...http,
      method: "POST",
      headers: { "Content-Type": "application/x-www-form-urlencoded" },
      body: parameters.toString(),
    });
  }
  for (const [name, value] of parameters) realm.searchParams.append(name, value);
  const headers: Record<string, string> =
    credentials === undefined ? {} : { Authorization: basicAuthorization(credentials) };
  return request(realm.href, { ...http, headers });
}

async function readToken(response: HttpResponse, realm: URL): Promise<string> {
  const what = `token server ${realm.origin}`;
  const { status } = response;
  if (status !== 200) {
    response.discard();
    if (status >= 500 || status === 429) {
      const afterMs = retryAfterMs(response.headers.get("retry-after"));
      throw new UnavailableError(`${what}: HTTP ${status}`, afterMs);
    }
    throw new CribError(
      status === 403 ? "PermissionDenied" : "Unauthenticated",
      `${what}: HTTP ${status}: it gives no token for these credentials`,
    );
  }
  const body = await readBody(response, RESPONSE_LIMIT_BYTES, what);
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), tokenResponse), body.toString());
  const token = parsed.success ? parsed.output.token || parsed.output.access_token : "";
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new CribError("Unauthenticated", `${what}: its answer holds no token`);
  }
  return `Bearer ${token}`;
}
