/**
 * Files with registry credentials: auth.json and Docker's config.json (containers-auth.json(5)).
 *
 * Nothing read here is ever logged or put into a message, but the names of files and helpers.
 */
import { homedir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { CribError } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { goStruct, stringMap, text } from "./go-json.ts";
import { ifThere } from "./if-there.ts";

const entrySchema = goStruct({
  auth: text,
  username: text,
  password: text,
  identitytoken: text,
  registrytoken: text,
});
const entriesSchema = v.record(v.string(), v.nullish(entrySchema, {}));
const fileSchema = goStruct({
  auths: v.nullish(entriesSchema, {}),
  credHelpers: stringMap,
  credsStore: text,
});

type File = v.InferOutput<typeof fileSchema>;

/** What a file says about a registry: credentials, or which program knows them. */
export type StoredAuth =
  | {
      kind: "entry";
      username: string;
      password: string;
      /** "user:password" in base64. */
      auth: string;
      identityToken: string;
      registryToken: string;
    }
  | {
      kind: "helper";
      /** What follows "docker-credential-". */
      helper: string;
      serverUrl: string;
      /** The file that names it, for messages. */
      file: string;
    };

/** The key that Docker uses for Docker Hub. */
const HUB_SERVER_URL = "https://index.docker.io/v1/";
const HUB = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

/** All names of Docker Hub as one. */
export const hubAsOne = (host: string) => (HUB.has(host) ? "docker.io" : host);

/**
 * The files to read, in order. An explicit one stands alone; else those of the user that Crib runs as.
 * `legacy` is the format of ~/.dockercfg.
 */
export function authFiles(
  explicit: string,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Array<{ path: string; legacy: boolean }> {
  if (explicit !== "") return [{ path: explicit, legacy: false }];
  const home = env.HOME || homedir();
  const runtime = env.XDG_RUNTIME_DIR || `/run/containers/${process.geteuid?.() ?? 0}`;
  // Without XDG_RUNTIME_DIR the tools leave their own "containers" out: it is in the path already.
  const primary = env.XDG_RUNTIME_DIR
    ? join(runtime, "containers/auth.json")
    : join(runtime, "auth.json");
  return [
    { path: primary, legacy: false },
    {
      path: join(env.XDG_CONFIG_HOME || join(home, ".config"), "containers/auth.json"),
      legacy: false,
    },
    { path: join(env.DOCKER_CONFIG || join(home, ".docker"), "config.json"), legacy: false },
    { path: join(home, ".dockercfg"), legacy: true },
  ];
}

/**
 * What the first file that knows `name` ("host[:port]/repository") says. The longest key wins:
 * the repository, its namespaces, the registry. Files that are not there are no error.
 *
 * @throws CribError FailedPrecondition naming the file that cannot be read as one.
 */
export function findStoredAuth(
  files: ReadonlyArray<{ path: string; legacy: boolean }>,
  name: string,
): StoredAuth | undefined {
  for (const { path, legacy } of files) {
    const bytes = ifThere(() => readRegularFile(path).toString());
    if (bytes === undefined || bytes.trim() === "") continue;
    const found = lookUp(parseAuthFile(bytes, path, legacy), name, path, legacy);
    if (found !== undefined) return found;
  }
  return undefined;
}

function parseAuthFile(bytes: string, path: string, legacy: boolean): File {
  const schema = legacy
    ? v.pipe(
        entriesSchema,
        v.transform((auths): File => ({ auths, credHelpers: {}, credsStore: "" })),
      )
    : fileSchema;
  const result = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), bytes);
  if (result.success) return result.output;
  // Not the issue's own message: it may quote what it read.
  const where = v.getDotPath(result.issues[0]) ?? "it is not JSON of the expected form";
  throw new CribError("FailedPrecondition", `${path}: ${where.replace(/[^\x20-\x7e]/g, "?")}`);
}

function lookUp(file: File, name: string, path: string, legacy: boolean): StoredAuth | undefined {
  const { auths, credHelpers, credsStore } = file;
  // ~/.dockercfg knows registries only.
  const keys = keysOf(name).slice(legacy ? -1 : 0);
  for (const key of keys) {
    const helper = own(credHelpers, key);
    if (helper) return { kind: "helper", helper, serverUrl: key, file: path };
  }
  for (const key of keys) {
    const found = toEntry(own(auths, key));
    if (found !== undefined) return found;
  }
  const registry = hubAsOne(keys.at(-1) ?? "");
  for (const [key, entry] of Object.entries(auths)) {
    if (!key.replace(/^https?:\/\//, "").includes("/") || /^https?:\/\//.test(key)) {
      const found = hostOf(key) === registry ? toEntry(entry) : undefined;
      if (found !== undefined) return found;
    }
  }
  if (!credsStore) return undefined;
  const serverUrl = registry === "docker.io" ? HUB_SERVER_URL : registry;
  return { kind: "helper", helper: credsStore, serverUrl, file: path };
}

/** "a/b/c" → "a/b/c", "a/b", "a". */
function keysOf(name: string): string[] {
  const parts = name.split("/");
  return parts.map((_, index) => parts.slice(0, parts.length - index).join("/"));
}

function own<T>(table: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}

/** "https://host/v1/" → "host", as `docker login` writes keys. */
function hostOf(key: string): string {
  return hubAsOne(key.replace(/^https?:\/\//, "").replace(/\/.*$/, ""));
}

/** An entry that holds nothing says only that a helper was used. */
function toEntry(entry: v.InferOutput<typeof entrySchema> | undefined): StoredAuth | undefined {
  if (entry === undefined) return undefined;
  const { username, password, auth, identitytoken, registrytoken } = entry;
  if (!username && !auth && !identitytoken && !registrytoken) return undefined;
  return {
    kind: "entry",
    username,
    password,
    auth,
    identityToken: identitytoken,
    registryToken: registrytoken,
  };
}
