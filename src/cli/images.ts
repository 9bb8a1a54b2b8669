/** `crib images`: asks the daemon over the CRI socket. */
import { createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { CribError } from "../error.ts";
import type { StoredImage } from "../gen/crib/v1/image_admin_pb.ts";
import { type CriClients, connectCri } from "./cri-client.ts";

interface Options {
  socket: string;
  json?: boolean;
}

/** Files must fit where they go: /tmp may be memory. */
const SPOOL_DIRECTORY = "/var/tmp";

/** `crib images list` */
export async function listImages(options: Options): Promise<void> {
  const { images } = await ask(options, ({ image }) => image.listImages({}));
  const rows = images.map(({ id, repoTags, repoDigests, size, pinned }) => ({
    id,
    names: [...repoTags, ...repoDigests],
    sizeBytes: Number(size),
    pinned,
  }));
  print(options, rows, rows.map(line));
}

/** `crib images import FILE|DIR|-` */
export async function importImages(
  path: string,
  options: Options & { name?: string },
): Promise<void> {
  const run = async (absolute: string) => {
    const request = { path: absolute, name: options.name ?? "" };
    const { images } = await ask(options, ({ admin }) => admin.importImages(request));
    printStored(options, images);
  };
  if (path !== "-") return run(resolve(path));
  const directory = mkdtempSync(join(SPOOL_DIRECTORY, "crib-import-"));
  try {
    const spool = join(directory, "archive");
    await pipeline(process.stdin, createWriteStream(spool, { mode: 0o600 }));
    await run(spool);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** `crib images prune` */
export async function pruneImages(options: Options): Promise<void> {
  const { images } = await ask(options, ({ admin }) => admin.pruneImages({}));
  printStored(options, images);
}

/** `crib images check`: returns the exit status, 1 when something stays damaged. */
export async function checkImages(
  options: Options & { fast?: boolean; repair: boolean },
): Promise<number> {
  const request = { fast: options.fast ?? false, repair: options.repair };
  const report = await ask(options, ({ admin }) => admin.checkImages(request));
  const damaged = report.damaged.map(({ chainId, problems, repaired, reason }) => ({
    chainId,
    problems,
    repaired,
    reason,
  }));
  const checkedLayers = Number(report.checkedLayers);
  const lines = damaged.map(({ chainId, problems, repaired, reason }) => {
    const outcome = repaired ? "repaired" : `still damaged${reason && `: ${reason}`}`;
    return `${chainId}  ${outcome}\n${problems.map((problem) => `  ${problem}\n`).join("")}`.trimEnd();
  });
  lines.push(`${checkedLayers} layers checked, ${damaged.length} damaged`);
  print(options, { checkedLayers, damaged }, lines);
  return damaged.every(({ repaired }) => repaired) ? 0 : 1;
}

async function ask<T>({ socket }: Options, body: (clients: CriClients) => Promise<T>): Promise<T> {
  const clients = connectCri(socket);
  try {
    return await body(clients);
  } catch (error) {
    if (!(error instanceof CribError)) throw error;
    throw new CribError("Unavailable", `${socket}: ${error.message}`);
  } finally {
    clients.close();
  }
}

function printStored(options: Options, images: readonly StoredImage[]): void {
  const rows = images.map(({ id, names, sizeBytes }) => ({
    id,
    names,
    sizeBytes: Number(sizeBytes),
  }));
  print(options, rows, rows.map(line));
}

function line(row: { id: string; names: string[]; sizeBytes: number; pinned?: boolean }): string {
  const megabytes = `${(row.sizeBytes / 1e6).toFixed(1)} MB`;
  const pinned = row.pinned ? "  pinned" : "";
  const id = row.id.replace("sha256:", "").slice(0, 12);
  return `${id}  ${megabytes.padStart(10)}  ${row.names.join(" ") || "-"}${pinned}`;
}

function print({ json }: Options, value: unknown, lines: readonly string[]): void {
  const text = json ? JSON.stringify(value, undefined, 2) : lines.join("\n");
  if (text !== "") process.stdout.write(`${text}\n`);
}
