import { loadConfig } from "../config/config.ts";

/** Where the daemon listens: `--socket`, else what its configuration says. */
export async function daemonSocket(options: { socket?: string; config?: string }): Promise<string> {
  if (options.socket !== undefined) return options.socket;
  return (await loadConfig({ file: options.config })).crib.socket;
}
