/**
 * The front door: clears what Bun would take from the environment, finds the subcommand, and imports
 * nothing but that. Every subcommand's options are declared here.
 */
import { Command, Option } from "commander";
import { CribError, messageOf } from "./error.ts";
import { VERSION } from "./version.ts";

/** With these, any caller could turn the daemon or its children into something else. */
for (const name of Object.keys(process.env)) {
  if (name.startsWith("BUN_") || name === "NODE_OPTIONS") delete process.env[name];
}

const collect = (value: string, earlier: string[]) => [...earlier, value];

/** The options by which a command learns the daemon's configuration. */
function withConfig(command: Command): Command {
  return command
    .option("--config <file>", "configuration file (default: /etc/crib/crib.toml where it exists)")
    .option(
      "--set <key=value>",
      "set a key of crib.toml, as section.key=value; may repeat",
      collect,
      [],
    )
    .option("--root <dir>", "what lasts: images, containers' layers, database (crib.root)")
    .option("--state <dir>", "what a reboot ends: sockets, namespaces, bundles (crib.state)")
    .option("--socket <path>", "the CRI socket (crib.socket)");
}

/** Options of what asks the daemon. */
function ofDaemon(command: Command): Command {
  return command
    .option("--socket <path>", "the CRI socket (default: crib.socket of the configuration)")
    .option("--config <file>", "the daemon's configuration (default: /etc/crib/crib.toml)")
    .option("--json", "print JSON");
}

async function withSocket<T extends { socket?: string; config?: string }>(options: T) {
  const { daemonSocket } = await import("./cli/daemon-socket.ts");
  return { ...options, socket: await daemonSocket(options) };
}

const program = new Command("crib")
  .description("A Kubernetes container runtime (CRI v1): the daemon and its tools.")
  .version(VERSION, "-V, --version", "print the version")
  .showHelpAfterError("(crib --help tells what there is)")
  .configureHelp({ sortSubcommands: false, showGlobalOptions: false });

withConfig(program.command("serve").description("run the daemon")).action(async (options) => {
  const { serve } = await import("./cli/serve.ts");
  await serve(options);
});

ofDaemon(
  program
    .command("status")
    .description("what the daemon does: handlers, pods, images, running operations"),
).action(async (options) => {
  const { status } = await import("./cli/status.ts");
  process.exitCode = await status(await withSocket(options));
});

withConfig(program.command("config").description("print the configuration that holds"))
  .option("--default", "print the commented defaults")
  .option("--json", "print JSON")
  .action(async (options) => {
    const { runConfig } = await import("./cli/config.ts");
    await runConfig(options);
  });

withConfig(program.command("check").description("tell what this node lacks, and the remedies"))
  .option("--json", "print JSON")
  .action(async (options) => {
    const { check } = await import("./cli/check.ts");
    process.exitCode = await check(options);
  });

program
  .command("install")
  .description("write the systemd unit, default configuration, crictl.yaml and directories")
  .option("--now", "also enable and start the service")
  .option("--dry-run", "only say what would be done")
  .option("--force", "overwrite a unit that was edited by hand")
  .option("--config-dir <dir>", "where crib.toml goes (default: /etc/crib)")
  .option("--root-dir <dir>", "install below this directory instead of /")
  .action(async (options) => {
    const { install } = await import("./cli/install.ts");
    await install(options);
  });

program
  .command("uninstall")
  .description("stop the service and take back what install did; data stays")
  .option("--purge", "also remove images, containers' files, database and configuration")
  .option("--dry-run", "only say what would be done")
  .option("--force", "remove a unit that was edited by hand")
  .option("--config-dir <dir>", "where crib.toml is (default: /etc/crib)")
  .option("--root-dir <dir>", "uninstall below this directory instead of /")
  .action(async (options) => {
    const { uninstall } = await import("./cli/uninstall.ts");
    await uninstall(options);
  });

const images = program.command("images").description("images of the daemon that runs here");
ofDaemon(images.command("list").description("what is there")).action(async (options) => {
  await (await import("./cli/images.ts")).listImages(await withSocket(options));
});
ofDaemon(
  images
    .command("import")
    .description("bring images from an OCI layout (directory or tar) or an archive of docker save")
    .argument("<file|dir|->", 'tars may be compressed; "-" is standard input')
    .option("--name <name>", "for images that have no full name in the archive"),
).action(async (path: string, options) => {
  await (await import("./cli/images.ts")).importImages(path, await withSocket(options));
});
ofDaemon(
  images.command("prune").description("remove what no container uses and nothing pins"),
).action(async (options) => {
  await (await import("./cli/images.ts")).pruneImages(await withSocket(options));
});
ofDaemon(
  images
    .command("check")
    .description("look for damaged layers, and get those again; exit status 1: some stay damaged")
    .option("--fast", "look at directories only, not into every file")
    .option("--no-repair", "only look"),
).action(async (options) => {
  process.exitCode = await (await import("./cli/images.ts")).checkImages(await withSocket(options));
});

program
  .command("version")
  .description("print the version")
  .option("--json", "print JSON")
  .action(async (options: { json?: boolean }) => {
    const { version } = await import("./cli/version.ts");
    version(options);
  });

program
  .command("unpack", { hidden: true })
  .description("unpack one layer from standard input; the daemon runs this")
  .allowUnknownOption()
  .allowExcessArguments()
  .addOption(new Option("--internal").hideHelp())
  .action(async () => {
    const { unpack } = await import("./cli/unpack.ts");
    await unpack(process.argv.slice(process.argv.indexOf("unpack") + 1));
  });

program
  .command("check-layers", { hidden: true })
  .description("compare layers with their lists of files; the daemon runs this")
  .allowUnknownOption()
  .allowExcessArguments()
  .action(async () => {
    const { checkLayers } = await import("./cli/check-layers.ts");
    checkLayers(process.argv.slice(process.argv.indexOf("check-layers") + 1));
  });

program
  .command("inherit-directories", { hidden: true })
  .description("give a layer's directories what those below it have; the daemon runs this")
  .allowUnknownOption()
  .allowExcessArguments()
  .action(async () => {
    const { inherit } = await import("./cli/inherit-directories.ts");
    inherit(process.argv.slice(process.argv.indexOf("inherit-directories") + 1));
  });

program
  .command("disk-usage", { hidden: true })
  .description("measure a directory tree; the daemon runs this")
  .argument("<directory>")
  .action(async (directory: string) => {
    const { diskUsage } = await import("./cli/disk-usage.ts");
    diskUsage(directory);
  });

try {
  await program.parseAsync();
} catch (error) {
  const internal = !(error instanceof CribError);
  process.stderr.write(`crib: ${messageOf(error)}\n`);
  if (internal && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
