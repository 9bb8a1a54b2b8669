/** OpenPGP signatures through gpgv, which verifies against given keys and nothing else. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CribError } from "../error.ts";
import { runCommand } from "../linux/command.ts";
import { codeOf } from "../linux/errno.ts";

const DEADLINE_MS = 20_000;
const PAYLOAD_LIMIT_BYTES = 1024 * 1024;
/** A message of 1 MiB may hold a thousand times as much: files end at 2 or 4 MiB, by the shell. */
const LIMITED = 'ulimit -f 4096 && exec gpgv "$@"';
/** The shell's exit code for a program that is not there. */
const NOT_FOUND = 127;

/**
 * Verifies a signed message and returns what was signed; undefined (with the reason in `why`) when it
 * is not one good signature by one of the keys: not signed, another key, expired, revoked, changed.
 *
 * @throws CribError FailedPrecondition: there is no gpgv.
 */
export async function verifyOpenPgp(
  message: Uint8Array,
  keyrings: readonly Uint8Array[],
): Promise<{ payload: Buffer } | { why: string }> {
  const directory = mkdtempSync(join(tmpdir(), "crib-gpgv-"));
  try {
    const rings = keyrings.map((ring, index) => {
      const path = join(directory, `ring-${index}.gpg`);
      writeFileSync(path, dearmor(ring));
      return ["--keyring", path];
    });
    const [input, output] = [join(directory, "message"), join(directory, "payload")];
    writeFileSync(input, message);
    const status = await gpgv(directory, [...rings.flat(), "--output", output, input]);
    const why = whyNot(status);
    if (why !== undefined) return { why };
    const payload = readFileSync(output);
    if (payload.length > PAYLOAD_LIMIT_BYTES) return { why: "its payload is too long" };
    return { payload };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Returns the keywords of gpgv's status lines (GnuPG, doc/DETAILS), and how it ended. */
async function gpgv(home: string, argv: string[]): Promise<{ words: string[]; exitCode: number }> {
  try {
    const { stdout, exitCode } = await runCommand(
      ["sh", "-c", LIMITED, "gpgv", "--homedir", home, "--status-fd", "1", ...argv],
      { deadlineMs: DEADLINE_MS },
    );
    if (exitCode === NOT_FOUND) throw notThere();
    const words = [...stdout.matchAll(/^\[GNUPG:\] ([A-Z_]+)/gm)].map(([, word]) => word ?? "");
    return { words, exitCode };
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    throw notThere();
  }
}

function notThere(): CribError {
  return new CribError(
    "FailedPrecondition",
    "policy.json asks for GPG signatures (signedBy), but the program gpgv is not in PATH",
  );
}

function whyNot({ words, exitCode }: { words: string[]; exitCode: number }): string | undefined {
  const count = (word: string) => words.filter((other) => other === word).length;
  if (count("ERRSIG") > 0) return "made by another key";
  if (count("EXPKEYSIG") + count("EXPSIG") > 0) return "expired";
  if (count("REVKEYSIG") > 0) return "made by a revoked key";
  const good = ["NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT"].every((word) => count(word) === 1);
  return exitCode === 0 && good ? undefined : "not one good signature over its payload";
}

/** Public keys come as they are, or in ASCII (RFC 4880, section 6.2), which gpgv does not read. */
function dearmor(bytes: Uint8Array): Buffer {
  const text = Buffer.from(bytes).toString("latin1");
  const blocks = [
    ...text.matchAll(
      /-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*?\r?\n([\s\S]*?)-----END PGP/g,
    ),
  ];
  if (blocks.length === 0) return Buffer.from(bytes);
  return Buffer.concat(
    blocks.map(([, body = ""]) => Buffer.from(body.replace(/^=.*$/m, ""), "base64")),
  );
}
