import { RUNTIME_API_VERSION, VERSION } from "../version.ts";

/** `crib version` */
export function version({ json = false }: { json?: boolean }): void {
  const facts = {
    version: VERSION,
    cri: RUNTIME_API_VERSION,
    bun: Bun.version,
    arch: process.arch,
  };
  process.stdout.write(
    json
      ? `${JSON.stringify(facts)}\n`
      : `crib ${facts.version} (CRI ${facts.cri}, Bun ${facts.bun}, ${facts.arch})\n`,
  );
}
