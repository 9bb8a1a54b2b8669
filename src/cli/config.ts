/** `crib config`: shows the configuration that `crib serve` would run with, or the commented default. */
import { defaultConfig, loadConfig } from "../config/config.ts";
import { renderConfig, renderDefaultConfig } from "../config/render.ts";

export interface ConfigOptions {
  /** Print the defaults (as a commented file, or as JSON) instead of what is in effect. */
  default?: boolean;
  json?: boolean;
  /** `--config FILE`. */
  config?: string;
  /** Each `--set section.key=value`. */
  set?: string[];
  root?: string;
  state?: string;
  socket?: string;
}

/** Writes the configuration to standard output; throws the `CribError` of a bad one. */
export async function runConfig(options: ConfigOptions): Promise<void> {
  process.stdout.write(await configText(options));
}

/** What `crib config` prints. */
export async function configText(options: ConfigOptions): Promise<string> {
  if (options.default && !options.json) return renderDefaultConfig();
  const { root, state, socket } = options;
  const config = options.default
    ? defaultConfig()
    : await loadConfig({ file: options.config, set: options.set, flags: { root, state, socket } });
  return options.json ? `${JSON.stringify(config, null, 2)}\n` : renderConfig(config);
}
