/** A client of one repository of one registry (OCI distribution specification 1.1, pull). */
import type { Source } from "../config/registries-conf.ts";
import { CribError } from "../error.ts";
import type { Bandwidth } from "./bandwidth.ts";
import type { BlobSource } from "./blob.ts";
import { type Challenge, parseChallenges } from "./challenge.ts";
import { basicAuthorization, type Credentials } from "./credentials.ts";
import {
  type HttpResponse,
  REDIRECT_LIMIT,
  REDIRECTS,
  type RequestOptions,
  readBody,
  redirectTarget,
  request,
  retryAfterMs,
  UnavailableError,
} from "./http.ts";
import { MANIFEST_TYPES } from "./media-types.ts";
import { fetchToken } from "./token.ts";

/** Registries have to take 4 MiB, but 256 layers or 1000 manifests are some 300 KB. */
const MANIFEST_LIMIT_BYTES = 1024 * 1024;
const ERROR_LIMIT_BYTES = 64 * 1024;
/** A server that speaks no TLS may keep silent to a TLS greeting. */
const PROBE_LIMIT_MS = 5000;

export interface RegistryOptions {
  source: Source;
  /** Asked once, when the registry wants to know. */
  credentials: () => Promise<Credentials | undefined>;
  tls?: RequestOptions["tls"];
  noProgressMs: number;
  /** The node's limit for blobs, if it has one. */
  bandwidth?: Bandwidth;
  signal: AbortSignal;
}

export class RegistryClient {
  /** "host/repository", for messages. */
  readonly name: string;
  /** Where it leads, as references and configuration write it. */
  readonly source: Source;
  readonly #host: string;
  readonly #options: RegistryOptions;
  /** Of this registry's own name only, whatever its port: not of hosts that it sends its callers to. */
  readonly #insecure: (host: string) => boolean;
  /** What other registries gave without credentials when this one sent its callers there, by origin. */
  readonly #anonymous = new Map<string, string>();
  #base: string | undefined;
  #authorization: string | undefined;
  #renewal: Promise<string> | undefined;
  #credentials: Promise<Credentials | undefined> | undefined;

  constructor(options: RegistryOptions) {
    const { host, repository, insecure } = options.source;
    this.name = `${host}/${repository}`;
    this.source = options.source;
    this.#options = options;
    this.#host = serverOf(host);
    const isInsecure = insecure || isLoopback(host);
    this.#insecure = (other) => isInsecure && nameIn(other) === nameIn(this.#host);
  }

  /** A manifest or index by tag or digest, whose bytes are not yet checked. */
  async manifest(reference: string): Promise<{ bytes: Buffer; mediaType: string; digest: string }> {
    const accept = MANIFEST_TYPES.join(", ");
    const response = await this.#get(`manifests/${reference}`, { Accept: accept });
    await this.#expect(response, [200], `manifest ${reference}`);
    const what = `${this.name}: manifest ${reference}`;
    const bytes = await readBody(response, MANIFEST_LIMIT_BYTES, what);
    const mediaType = (response.headers.get("content-type") ?? "").replace(/;.*$/, "").trim();
    return { bytes, mediaType, digest: response.headers.get("docker-content-digest") ?? "" };
  }

  /**
   * A blob's bytes from `offset` on. The answer may begin earlier, when the server does not know
   * ranges: `offset` of the result says where.
   */
  async blob(digest: string, offset: number): ReturnType<BlobSource["blob"]> {
    const headers: Record<string, string> = offset > 0 ? { Range: `bytes=${offset}-` } : {};
    const response = await this.#get(`blobs/${digest}`, headers);
    await this.#expect(response, offset > 0 ? [200, 206] : [200], `blob ${digest}`);
    if (response.status === 200) return { response: this.#limited(response), offset: 0 };
    const range = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
    if (range === null || Number(range[1]) !== offset) {
      response.discard();
      throw new CribError("DataLoss", `${this.name}: blob ${digest}: answered with another range`);
    }
    return { response: this.#limited(response), offset };
  }

  #limited(response: HttpResponse): Pick<HttpResponse, "chunks"> {
    const { bandwidth, signal } = this.#options;
    if (bandwidth === undefined) return response;
    return { chunks: () => bandwidth.limit(response.chunks(), signal) };
  }

  async #get(path: string, headers: Record<string, string>): Promise<HttpResponse> {
    this.#base ??= await this.#findBase();
    const url = `${this.#base}/v2/${this.#options.source.repository}/${path}`;
    const { origin } = new URL(url);
    for (let renewals = 0; ; ) {
      const used = this.#authorization;
      const response = await this.#follow(url, headers);
      // Only the registry's own wish for credentials counts, not that of a host it redirects to.
      const own = new URL(response.url).origin === origin;
      if (response.status !== 401 || !own || renewals > 0) return response;
      response.discard();
      // Another layer may have renewed them meanwhile.
      if (this.#authorization !== used) continue;
      renewals += 1;
      await this.#renew(response);
    }
  }

  /** Once for all requests that wait for it. */
  async #renew(response: HttpResponse): Promise<void> {
    this.#renewal ??= this.#authorize(response).finally(() => {
      this.#renewal = undefined;
    });
    this.#authorization = await this.#renewal;
  }

  /** https, or plain http for an insecure or loopback registry that does not answer to https. */
  async #findBase(): Promise<string> {
    const secure = `https://${this.#host}`;
    if (!this.#insecure(this.#host)) return secure;
    let reason: unknown;
    for (const base of [secure, `http://${this.#host}`]) {
      try {
        const noProgressMs = Math.min(PROBE_LIMIT_MS, this.#options.noProgressMs);
        const response = await request(`${base}/v2/`, { ...this.#http(), noProgressMs });
        response.discard();
        // A proxy or a TLS server answers plain requests with its own errors.
        if (response.status < 400 || response.status === 401 || response.status === 404)
          return base;
        reason = new UnavailableError(`${base}: HTTP ${response.status}`);
      } catch (error) {
        const { code } = error as { code?: unknown };
        if (code !== "Unavailable" && code !== "DeadlineExceeded") throw error;
        reason = error;
      }
    }
    throw reason;
  }

  /**
   * Follows redirects; what authorises goes to the registry's own origin only. Another registry on the way
   * may want a token of its own: it is asked for one for nobody in particular.
   */
  async #follow(start: string, headers: Record<string, string>): Promise<HttpResponse> {
    const { origin } = new URL(start);
    const answered = new Set([origin]);
    let url = start;
    for (let hop = 0; hop <= REDIRECT_LIMIT; hop++) {
      const at = new URL(url).origin;
      const authorization = at === origin ? this.#authorization : this.#anonymous.get(at);
      const response = await this.#send(
        url,
        authorization === undefined ? headers : { ...headers, Authorization: authorization },
      );
      if (response.status === 401 && !answered.has(at)) {
        const bearer = bearerOf(response);
        if (bearer === undefined) return response;
        response.discard();
        answered.add(at);
        this.#anonymous.set(at, await this.#tokenFor(bearer, repositoryIn(url), undefined));
        continue;
      }
      if (!REDIRECTS.includes(response.status)) return response;
      response.discard();
      url = redirectTarget(response, this.#insecure, this.name);
    }
    throw new CribError(
      "FailedPrecondition",
      `${this.name}: more than ${REDIRECT_LIMIT} redirects`,
    );
  }

  #tokenFor(
    bearer: Challenge,
    repository: string | undefined,
    credentials: Credentials | undefined,
  ): Promise<string> {
    return fetchToken(bearer, {
      repository: repository ?? this.source.repository,
      credentials,
      http: this.#http(),
      plainAllowed: this.#insecure,
    });
  }

  #send(url: string, headers: Record<string, string>): Promise<HttpResponse> {
    return request(url, { ...this.#http(), headers });
  }

  #http() {
    const { noProgressMs, signal } = this.#options;
    return { insecure: this.#insecure, tls: this.#options.tls, noProgressMs, signal };
  }

  async #authorize(response: HttpResponse): Promise<string> {
    this.#credentials ??= this.#options.credentials();
    const credentials = await this.#credentials;
    const bearer = bearerOf(response);
    if (credentials?.registryToken) {
      const authorization = `Bearer ${credentials.registryToken}`;
      if (authorization !== this.#authorization) return authorization;
    } else if (bearer !== undefined) {
      return this.#tokenFor(bearer, undefined, credentials);
    }
    const basic = challengesOf(response).some(({ scheme }) => scheme === "basic");
    if (basic && credentials !== undefined && credentials.username !== "") {
      return basicAuthorization(credentials);
    }
    const why = credentials === undefined ? "wants credentials" : "does not take these credentials";
    throw new CribError("Unauthenticated", `${this.name}: the registry ${why}`);
  }

  async #expect(response: HttpResponse, statuses: number[], what: string): Promise<void> {
    const { status } = response;
    if (statuses.includes(status)) return;
    const detail = await errorDetail(response);
    const message = `${this.name}: ${what}: HTTP ${status}${detail}`;
    if (status >= 500 || status === 429 || status === 408) {
      throw new UnavailableError(message, retryAfterMs(response.headers.get("retry-after")));
    }
    if (status === 404) throw new CribError("NotFound", message);
    if (status === 401) throw new CribError("Unauthenticated", message);
    if (status === 403) throw new CribError("PermissionDenied", message);
    if (status === 416) throw new CribError("DataLoss", message);
    throw new CribError("FailedPrecondition", message);
  }
}

function challengesOf({ headers }: HttpResponse): Challenge[] {
  return parseChallenges(headers.get("www-authenticate") ?? "");
}

function bearerOf(response: HttpResponse): Challenge | undefined {
  return challengesOf(response).find(({ scheme }) => scheme === "bearer");
}

/** "a/b" in "https://host/v2/a/b/blobs/DIGEST". */
function repositoryIn(url: string): string | undefined {
  return /^\/v2\/(.+)\/(?:manifests|blobs)\//.exec(new URL(url).pathname)?.[1];
}

/** What the registry says of its error (`{"errors": [{"code", "message"}]}`), made printable. */
async function errorDetail(response: HttpResponse): Promise<string> {
  try {
    const body = await readBody(response, ERROR_LIMIT_BYTES, "error");
    const parsed = JSON.parse(body.toString()) as { errors?: Array<Record<string, unknown>> };
    const first = parsed.errors?.[0];
    const text = [first?.code, first?.message]
      .filter((part) => typeof part === "string")
      .join(": ");
    return text === "" ? "" : ` (${text.replace(/[^\x20-\x7e]/g, " ").slice(0, 300)})`;
  } catch {
    return "";
  }
}

/** Who answers for a registry: Docker Hub's server has another name than its images. */
export function serverOf(host: string): string {
  return host === "docker.io" ? "registry-1.docker.io" : host;
}

/** "name:port" without the port. */
const nameIn = (host: string) => host.replace(/:\d+$/, "").toLowerCase();

/** Docker's rule: registries on this machine may speak plain http. */
function isLoopback(host: string): boolean {
  const name = nameIn(host);
  return name === "localhost" || name === "[::1]" || /^127(?:\.\d{1,3}){3}$/.test(name);
}
