/** What the second disk carries: the kubelet, the cases, and a registry's directory with the images. */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { cache, hashOf, output, requireGo, retry } from "../conformance/programs.ts";

const version = "1.36.0";

/** Builds the kubelet from the sources that test/node/kubelet pins, once (five minutes). */
export function buildKubelet(): string {
  const module = join(import.meta.dir, "kubelet");
  const hash = hashOf(["go.mod", "go.sum"].map((it) => join(module, it)));
  const kubelet = join(cache, "node", `kubelet-${hash}`);
  if (existsSync(kubelet)) return kubelet;
  requireGo();
  mkdirSync(join(cache, "node"), { recursive: true });
  const [major, minor] = version.split(".");
  const stamps = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const flags = Object.entries(stamps).map(
    ([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`,
  );
  const staging = `${kubelet}.${process.pid}`;
  const build = ["go", "build", "-o", staging, "-ldflags", ["-s -w", ...flags].join(" ")];
  const env = { ...process.env, CGO_ENABLED: "0" };
  retry(() => output([...build, "k8s.io/kubernetes/cmd/kubelet"], module, env));
  renameSync(staging, kubelet);
  return kubelet;
}

/** Bundles test files (names without ".test.ts") into one script each: `bun test` runs them anywhere. */
export async function bundleCases(names: string[], directory: string): Promise<void> {
  const result = await Bun.build({
    entrypoints: names.map((name) => join(import.meta.dir, `${name}.test.ts`)),
    outdir: directory,
    // By itself it makes folders, when one of them imports another.
    naming: "[name].[ext]",
    target: "bun",
    sourcemap: "inline",
  });
  if (!result.success) throw new Error(`the cases cannot be bundled: ${result.logs.join("\n")}`);
}
