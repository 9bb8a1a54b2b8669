/** Registries and archives that lie or have no end: a clear error, bounded memory, nothing left. */
import { expect, test } from "bun:test";
import { createWriteStream, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageNode } from "../fixtures/image-node.ts";
import { openTestStore } from "../fixtures/image-store.ts";
import { type Pushed, pushImage } from "../fixtures/registry.ts";
import { type TarSpec, tarball } from "../fixtures/tar.ts";

const node = imageNode();
const noise = (bytes: number) => Buffer.from(crypto.getRandomValues(new Uint8Array(bytes)));
const push = (name: string): Promise<Pushed> =>
  pushImage(node.registry, name, { layers: [[{ name: "noise", data: noise(200_000) }]] });

function expectNothingLeft(): void {
  expect(node.store.images.list()).toEqual([]);
  expect(node.store.layerDirectories()).toEqual([]);
}

test("layers that answer what the engine asks of /proc hold up no pull, however many come at once", async () => {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8");
  const many = Array.from({ length: 2000 }, (_, index): TarSpec => ({ name: `f${index}` }));
  const statm: TarSpec[] = [
    { name: "proc/self/statm", type: "6" },
    { name: "proc/self/statm", type: "3", major: 1, minor: 5 },
    { name: "proc/self/statm/", type: "5" },
    { name: "proc/self/statm", type: "6", mode: 0 },
  ];
  const hostile = await Promise.all(
    statm.map((entry, index) =>
      pushImage(node.registry, `statm-${index}:1`, { layers: [[entry, ...many]] }),
    ),
  );
  const pushed = [...hostile, await push("harmless:1")];
  const { images } = node.store;
  const pulled = await Promise.all(pushed.map(({ name }) => images.pull(name)));
  expect((await images.check({ fast: false, repair: false })).damaged).toEqual([]);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(mounts);
  for (const { id } of pulled) await images.remove(id);
  expectNothingLeft();
}, 30_000);

/** A body that goes on for as long as somebody reads, and how much was read of it. */
function endless(status: number) {
  let sent = 0;
  const body = () =>
    new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 65_536;
        controller.enqueue(new Uint8Array(65_536).fill(0x20));
      },
    });
  return { sent: () => sent, answer: () => new Response(body(), { status }) };
}

test.each([
  ["manifest", "/manifests/1", 200, "DataLoss", "longer than 1048576 bytes"],
  ["answer that there is no manifest", "/manifests/1", 404, "NotFound", "HTTP 404"],
  ["answer that a blob is not given", "/blobs/", 403, "PermissionDenied", "HTTP 403"],
  ["greeting", "/v2/", 200, "", ""],
])(
  "an endless %s is read to a limit",
  async (_, part, status, code, message) => {
    const pushed = await push("endless:1");
    const { sent, answer } = endless(status);
    node.proxy.intercept = (_request, url) =>
      (part === "/v2/" ? url.pathname === part : url.pathname.includes(part))
        ? answer()
        : undefined;
    const pulled = node.store.images.pull(node.throughProxy(pushed));
    if (code === "") {
      // What a registry says of itself matters to nobody.
      await pulled;
      await node.store.images.remove(pushed.id);
    } else {
      await expect(pulled).rejects.toMatchObject({
        code,
        message: expect.stringContaining(message),
      });
    }
    expect(sent()).toBeGreaterThan(0);
    expectNothingLeft();
    // Beside what is read there is what the sockets hold.
    expect(sent()).toBeLessThan(64 * 1024 * 1024);
  },
  30_000,
);

test.each(["/v2/", "/manifests/1", "/blobs/"])(
  "a registry that is silent at %s ends the pull after the no-progress time",
  async (part) => {
    node.store.close();
    node.store = await openTestStore({ image: { no_progress_timeout_seconds: 0.3 } });
    const pushed = await push("silent:1");
    node.proxy.intercept = (_, url) =>
      (part === "/v2/" ? url.pathname === part : url.pathname.includes(part))
        ? new Promise<never>(() => undefined)
        : undefined;
    await expect(node.store.images.pull(node.throughProxy(pushed))).rejects.toMatchObject({
      code: "DeadlineExceeded",
      message: expect.stringContaining("no progress"),
    });
    expectNothingLeft();
  },
  30_000,
);

test.each([
  ["later", 500],
  ["earlier", -1001],
])(
  "bytes that begin %s than asked for are not taken for others",
  async (_, shift) => {
    const pushed = await push("range:1");
    const digest = pushed.layers[0]?.digest ?? "";
    node.proxy.intercept = async (request, url) => {
      if (!url.pathname.endsWith(digest)) return undefined;
      const whole = await fetch(`http://${node.registry.host}${url.pathname}`, {
        decompress: false,
      });
      const bytes = new Uint8Array(await whole.arrayBuffer());
      const range = /bytes=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1];
      if (range === undefined) return new Response(bytes.subarray(0, 1000));
      const from = Math.max(0, Number(range) + shift);
      return new Response(bytes.subarray(from), {
        status: 206,
        headers: { "Content-Range": `bytes ${Number(range) + shift}-${bytes.length - 1}/*` },
      });
    };
    await expect(node.store.images.pull(node.throughProxy(pushed))).rejects.toMatchObject({
      code: shift > 0 ? "DataLoss" : expect.stringMatching(/DataLoss|Unavailable/),
    });
  },
  30_000,
);

/** Writes an archive entry by entry. */
async function write(path: string, entries: Iterable<TarSpec>): Promise<void> {
  const file = createWriteStream(path);
  for (const entry of entries) {
    if (!file.write(tarball([entry], { end: false }))) {
      await new Promise((resolve) => file.once("drain", resolve));
    }
  }
  await new Promise<void>((resolve) => file.end(tarball([]), () => resolve()));
}

test.each<[string, () => Iterable<TarSpec>, string]>([
  [
    "more entries",
    function* () {
      for (let index = 0; index <= 100_000; index++) yield { name: `f${index}` };
    },
    "more than 100000 entries",
  ],
  [
    "longer names",
    function* () {
      for (let index = 0; index < 40; index++) {
        yield { name: "x", pax: { path: `${index}/${"n".repeat(500_000)}` } };
      }
    },
    "more than 16777216 bytes of names",
  ],
  [
    "longer links",
    function* () {
      for (let index = 0; index < 40; index++) {
        yield { name: `${index}`, type: "2", pax: { linkpath: "n".repeat(500_000) } };
      }
    },
    "more than 16777216 bytes of names",
  ],
])(
  "an archive of %s than memory should hold is refused",
  async (_, entries, message) => {
    const directory = mkdtempSync(join(tmpdir(), "crib-hostile-"));
    try {
      const path = join(directory, "bomb.tar");
      await write(path, entries());
      await expect(node.store.images.import(path)).rejects.toMatchObject({
        code: "FailedPrecondition",
        message: expect.stringContaining(message),
      });
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
  60_000,
);
