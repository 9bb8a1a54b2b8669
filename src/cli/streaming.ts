/** The daemon's streaming server: when it is started, what is behind it, and its certificates. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { statSync } from "node:fs";
import { BlockList, isIPv6 } from "node:net";
import type { Config } from "../config/config.ts";
import type { Core } from "../container/core.ts";
import type { Streaming } from "../cri/context.ts";
import { CribError, messageOf } from "../error.ts";
import { readRegularFile } from "../linux/regular-file.ts";
import { log } from "../observe/log.ts";
import type { StreamingServer, TlsMaterial } from "../streaming/server.ts";

type Settings = Config["streaming"];

/**
 * The streaming server. With the default address and port nothing can be wrong with it, so it is loaded
 * and started for the first client; everything else is tried out now.
 *
 * @throws CribError InvalidArgument (certificates), Unavailable (address or port).
 */
export async function openStreaming(core: Core): Promise<Streaming> {
  const { streaming: settings } = core.config;
  const certificates = settings.tls_cert_file === "" ? undefined : new Certificates(settings);
  const loopback = isLoopback(settings.address);
  if (!loopback && certificates === undefined) {
    log().warn(`streaming.address: ${settings.address} is not loopback, and TLS is off`);
  }
  let server: Promise<StreamingServer> | undefined;
  const started = () => {
    server ??= start(core, certificates?.material).catch((error: unknown) => {
      server = undefined;
      throw error;
    });
    return server;
  };
  if (!loopback || settings.port !== 0 || certificates !== undefined) await started();
  let running: StreamingServer | undefined;
  return {
    async url(request) {
      running = await started();
      certificates?.renew(running);
      return running.url(request);
    },
    sessions: () => running?.sessions() ?? [],
    async close() {
      const open = await server?.catch(() => undefined);
      await open?.close();
    },
  };
}

async function start(core: Core, tls: TlsMaterial | undefined): Promise<StreamingServer> {
  const { streaming: settings } = core.config;
  const [{ StreamingServer }, { exec }, { attach }, { dial }] = await Promise.all([
    import("../streaming/server.ts"),
    import("../container/exec.ts"),
    import("../container/attach.ts"),
    import("../pod/dial.ts"),
  ]);
  const server = new StreamingServer(
    {
      address: settings.address,
      port: settings.port,
      idleTimeoutMs: settings.idle_timeout_seconds * 1000,
      creationTimeoutMs: settings.creation_timeout_seconds * 1000,
      maxSessions: settings.max_sessions,
      tls,
    },
    {
      exec: (request) => exec(core, request),
      attach: (request) => attach(core, request),
      dial: (podSandboxId, port) => dial(core, podSandboxId, port),
    },
  );
  await server.listen();
  return server;
}

/**
 * The files of streaming.tls_*. They are looked at when somebody gets a URL, which comes before every
 * handshake: no timer, no watch.
 */
class Certificates {
  material: TlsMaterial;
  #stamp: string;

  /** @throws CribError InvalidArgument: a file cannot be read, or they do not belong together. */
  constructor(private readonly settings: Settings) {
    this.#stamp = this.#stampNow();
    this.material = this.#read();
  }

  /** Gives the server what the files hold now; what does not fit together is not used. */
  renew(server: StreamingServer): void {
    const stamp = this.#stampNow();
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    try {
      this.material = this.#read();
      server.renew(this.material);
      log().info({ file: this.settings.tls_cert_file }, "streaming: certificates renewed");
    } catch (error) {
      log().error({ error: messageOf(error) }, "streaming: the former certificates stay in use");
    }
  }

  #files(): string[] {
    const { tls_cert_file: cert, tls_key_file: key, tls_client_ca_file: ca } = this.settings;
    return [cert, key, ca].filter((file) => file !== "");
  }

  #stampNow(): string {
    const stamps = this.#files().map((file) => {
      const stat = statSync(file, { throwIfNoEntry: false, bigint: true });
      return stat === undefined ? "none" : `${stat.dev}:${stat.ino}:${stat.mtimeNs}:${stat.size}`;
    });
    return stamps.join(" ");
  }

  #read(): TlsMaterial {
    const { tls_cert_file: cert, tls_key_file: key, tls_client_ca_file: ca } = this.settings;
    const material = {
      cert: read("tls_cert_file", cert),
      key: read("tls_key_file", key),
      clientCa: ca === "" ? undefined : read("tls_client_ca_file", ca),
    };
    const pair = `streaming.tls_cert_file ${cert}, streaming.tls_key_file ${key}`;
    let fits: boolean;
    try {
      const certificate = new X509Certificate(material.cert);
      fits = certificate.checkPrivateKey(createPrivateKey(material.key));
      if (material.clientCa !== undefined) new X509Certificate(material.clientCa);
    } catch (error) {
      throw new CribError("InvalidArgument", `${pair}, ${ca}: ${messageOf(error)}`);
    }
    if (!fits) throw new CribError("InvalidArgument", `${pair}: the key is not the certificate's`);
    return material;
  }
}

function read(key: string, file: string): string {
  try {
    return readRegularFile(file).toString();
  } catch (error) {
    throw new CribError("InvalidArgument", `streaming.${key}: ${messageOf(error)}`);
  }
}

function isLoopback(address: string): boolean {
  const loopback = new BlockList();
  loopback.addSubnet("127.0.0.0", 8, "ipv4");
  loopback.addAddress("::1", "ipv6");
  return loopback.check(address, isIPv6(address) ? "ipv6" : "ipv4");
}
