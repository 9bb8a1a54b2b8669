/** Credentials that the node itself has: files and helpers. */
import { authFiles, findStoredAuth } from "../config/auth-file.ts";
import { CribError } from "../error.ts";
import { askHelper } from "./credential-helper.ts";
import { type Credentials, toCredentials } from "./credentials.ts";

/** The entry of `credential-helpers` in registries.conf that stands for the files. */
const FILES = "containers-auth.json";

/**
 * What this node itself knows about "host[:port]/repository": the first of the sources named in
 * registries.conf that has an answer (containers-auth.json(5), containers-registries.conf(5)). One that
 * fails counts only where no other has one.
 *
 * @throws CribError FailedPrecondition, Unavailable: see `findStoredAuth` and `askHelper`.
 */
export async function storedCredentials(
  name: string,
  { authFile, helpers }: { authFile: string; helpers: readonly string[] },
): Promise<Credentials | undefined> {
  const host = name.slice(0, name.indexOf("/"));
  let failure: CribError | undefined;
  for (const helper of helpers) {
    try {
      const found =
        helper === FILES ? await fromFiles(name, host, authFile) : await askHelper(helper, host);
      if (found !== undefined) return found;
    } catch (error) {
      if (!(error instanceof CribError)) throw error;
      failure ??= error;
    }
  }
  if (failure !== undefined) throw failure;
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
