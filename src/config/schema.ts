/**
 * Every key of crib.toml: its documentation, its check and its default value, in one place.
 *
 * The loader validates with this schema, `crib config --default` prints it, and `Config` is its type:
 * a key that is not here does not exist.
 */
import { isIP } from "node:net";
import * as v from "valibot";
import {
  absolutePath,
  integer,
  key,
  matching,
  optionalFile,
  optionalHostAndPort,
  optionalPath,
  seconds,
  section,
  socketPath,
  text,
} from "./schema-parts.ts";

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
/** With fewer an OCI runtime written in Go cannot start a container: its threads count. */
const PIDS_LEAST = 32;
/** The kernel has no larger numbers (PID_MAX_LIMIT). */
const PIDS_MOST = 4 * 1024 * 1024;

function isPidsLimit(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= PIDS_LEAST && Number(value) <= PIDS_MOST;
}

const handlerName = matching(
  /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/,
  "must be a handler name as in a RuntimeClass: lower case letters, digits and dashes",
);
const annotationPattern = matching(/^([^*\0]+\*?|\*)$/, 'must be a name, with "*" only at its end');
const handler = v.strictObject({
  path: v.pipe(absolutePath, v.description("The OCI runtime's executable.")),
  root: v.pipe(
    v.optional(absolutePath),
    v.description("Its --root; <state>/runtimes/<handler> when absent."),
  ),
  allowed_annotations: v.pipe(
    v.optional(v.array(annotationPattern)),
    v.description("Instead of runtime.allowed_annotations."),
  ),
});

export const configSchema = v.strictObject({
  crib: section("Where Crib keeps things. Each daemon on a machine needs its own three.", {
    root: key(
      "Kept across reboots: database, image layers, writable layers.",
      absolutePath,
      "/var/lib/crib",
    ),
    state: key(
      "Gone after a reboot (a tmpfs): namespaces, monitor sockets, bundles, exit records.",
      absolutePath,
      "/run/crib",
    ),
    socket: key(
      "The CRI socket: --container-runtime-endpoint of the kubelet.",
      socketPath,
      "/run/crib/crib.sock",
    ),
  }),

  log: section("Crib's own log, on standard error.", {
    level: key(
      "trace, debug, info, warn or error.",
      v.picklist(["trace", "debug", "info", "warn", "error"]),
      "info",
    ),
    format: key(
      "json, pretty, or auto: pretty on a terminal, else json.",
      v.picklist(["auto", "json", "pretty"]),
      "auto",
    ),
  }),

  runtime: section("OCI runtimes, and what every container gets from the node.", {
    default_handler: key(
      'The handler of pods that name none. "" takes crun where it works on this host, else runc.',
      v.union([v.literal(""), handlerName], "must be a handler's name"),
      "",
    ),
    cgroup_driver: key(
      "systemd, cgroupfs, or auto: systemd where it is the init system. The kubelet asks for it.",
      v.picklist(["auto", "systemd", "cgroupfs"]),
      "auto",
    ),
    cgroup_parent: key(
      'Parent cgroup of pods whose request names none. "" is crib.slice (systemd) or /crib.',
      text,
      "",
    ),
    create_timeout_seconds: key(
      "How long the OCI runtime may take for one create or start.",
      seconds(1, 3600),
      240,
    ),
    handlers: key(
      "Runtime handlers by name. Empty: runc and crun as found in PATH. Example:\n" +
        '[runtime.handlers.kata]\npath = "/usr/bin/kata-runtime"\nroot = "/run/kata"',
      v.record(handlerName, handler),
      {},
    ),
    allowed_annotations: key(
      "Annotations of pods and containers, and labels of containers, that OCI runtimes and their hooks are\n" +
        'given: names, where "*" at the end matches anything. Runtimes take orders by them ("run.oci.*",\n' +
        '"org.systemd.property.*", "io.katacontainers.*"), and who may make a pod may write any. A handler\n' +
        "may have its own list. The kubelet is told all annotations, whatever is here.",
      v.array(annotationPattern),
      ["io.kubernetes.container.*", "io.kubernetes.pod.*"],
    ),
    default_capabilities: key(
      "Capabilities of a container before its own add and drop, without CAP_.",
      v.array(matching(/^(?!CAP_)[A-Z][A-Z_]*$/, "must be a capability in capitals, without CAP_")),
      [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "KILL",
      ],
    ),
    default_sysctls: key(
      'Sysctls of every pod that has the namespace for them: { "net.ipv4.ping_group_range" = "0 0" }.',
      v.record(
        matching(/^[A-Za-z0-9_./-]+$/, "must be a sysctl name, as net.core.somaxconn"),
        text,
      ),
      {},
    ),
    default_ulimits: key(
      'Resource limits: "nofile=1024:4096" (soft:hard) or "nofile=4096"; -1 is unlimited.',
      v.array(
        matching(/^[a-z]+=(-1|\d+)(:(-1|\d+))?$/, 'must look like "nofile=1024:4096" (soft:hard)'),
      ),
      [],
    ),
    default_env: key(
      'Environment of every container before its image\'s and its own: "NAME=value".',
      v.array(matching(/^[^=\0]+=[^\0]*$/, 'must look like "NAME=value"')),
      [],
    ),
    seccomp_profile: key(
      'The RuntimeDefault seccomp profile, a JSON file of at most 256 KiB and 1024 entries. "" is the built\n' +
        "in one. Files, those of Localhost too, are applied as they are: a comparison is of 64 bits, also\n" +
        "where the kernel takes 32 of them (socket, personality), unless it is a masked one.",
      optionalPath,
      "",
    ),
    unset_seccomp_profile: key(
      "Unconfined or RuntimeDefault: the seccomp profile of containers whose request names none. The\n" +
        "kubelet always names one: its own seccompDefault decides for pods that say nothing.",
      v.picklist(["Unconfined", "RuntimeDefault"]),
      "Unconfined",
    ),
  }),

  container: section("Containers: mounts, exec, stop.", {
    absent_mount_sources_to_reject: key(
      "Host paths that are never created when a mount names them and they do not exist.",
      v.array(absolutePath),
      [],
    ),
    exec_drain_timeout_seconds: key(
      "How long output is read on after an exec's process has ended but others hold its pipes.",
      seconds(0, 3600),
      5,
    ),
    exec_output_limit_bytes: key(
      "ExecSync keeps this much of stdout and stderr together; the rest is dropped, and the log tells of it.\n" +
        "The kubelet takes answers of 16 MiB, and 10 KiB of a probe's. The answer being sent needs several\n" +
        "times this in memory; there is one at a time of more than 256 KiB.",
      integer(1, 64 * MIB),
      4 * MIB,
    ),
    log_limit_bytes_per_second: key(
      "Output of a container beyond this is dropped from its log, which says so and how much. 0 is no\n" +
        "limit. A container keeps the limit that it was made with.",
      integer(0, 2 ** 32 - 1),
      0,
    ),
    pids_limit: key(
      "Processes and threads of a container. auto: 15 % of what the node can have, so that no container takes\n" +
        "them all (systemd's share for a service); -1: no limit. The kubelet limits whole pods: podPidsLimit.",
      v.union(
        [v.literal("auto"), v.literal(-1), v.custom<number>(isPidsLimit)],
        `must be "auto", -1 (no limit) or ${PIDS_LEAST} to ${PIDS_MOST}`,
      ),
      "auto",
    ),
    kill_timeout_seconds: key(
      "How long a container may take to vanish after SIGKILL before stopping it is an error.",
      seconds(1, 3600),
      60,
    ),
  }),

  monitor: section("The native process that owns a pod's namespaces and its containers' output.", {
    start_timeout_seconds: key(
      "How long it may take to start, or to answer a daemon that was started again.",
      seconds(1, 600),
      10,
    ),
    cgroup_parent: key(
      "Parent of the monitors' cgroups: \"\" is each pod's own, so that the pod pays for its monitor; else " +
        "a slice (systemd) or an absolute path (cgroupfs).",
      text,
      "",
    ),
  }),

  network: section("CNI.", {
    conf_dir: key(
      "Network configuration: the first .conflist, .conf or .json file in lexical order is used.",
      absolutePath,
      "/etc/cni/net.d",
    ),
    bin_dirs: key(
      "Where plugins are looked for, in this order.",
      v.pipe(v.array(absolutePath), v.minLength(1, "must name at least one directory")),
      ["/opt/cni/bin", "/usr/lib/cni"],
    ),
    timeout_seconds: key(
      "How long one plugin may take before it is killed and the attachment is undone.",
      seconds(0.1, 3600),
      60,
    ),
    assumed_capabilities: key(
      "What the network does though no plugin declares it, such as Cilium in place of kube-proxy:\n" +
        '"portMappings" (host ports), "bandwidth". Pods that ask for what nobody does are refused.',
      v.array(v.picklist(["portMappings", "bandwidth"])),
      [],
    ),
  }),

  streaming: section(
    "Where kubectl exec, attach, cp and port-forward arrive: the kubelet passes them on from its own port.",
    {
      address: key(
        "The IP address to listen on. Who can reach it needs a URL of the CRI socket, good once.",
        v.pipe(
          v.string(),
          v.check((address) => isIP(address) !== 0, "must be an IP address"),
        ),
        "127.0.0.1",
      ),
      port: key("0 takes a free one.", integer(0, 65_535), 0),
      idle_timeout_seconds: key(
        "A connection on which nothing moves for this long is closed.",
        seconds(1, 604_800),
        14_400,
      ),
      creation_timeout_seconds: key(
        "How long a client may take to open its streams.",
        seconds(1, 3600),
        30,
      ),
      max_sessions: key("Clients at a time; more are refused.", integer(1, 100_000), 1000),
      tls_cert_file: key(
        'Certificate chain, PEM. "" is no TLS. The files are read again when they change.',
        optionalFile,
        "",
      ),
      tls_key_file: key("The certificate's private key, PEM.", optionalFile, ""),
      tls_client_ca_file: key(
        'Clients need a certificate of this CA, PEM. "" asks for none.',
        optionalFile,
        "",
      ),
    },
  ),

  cadvisor: section(
    "What the cAdvisor inside the kubelet asks: /metrics/cadvisor, /stats/summary.",
    {
      socket: key(
        'Where it looks for CRI-O. Off where a CRI-O answers there; "" is off altogether.',
        v.union([v.literal(""), socketPath], 'must be a socket\'s absolute path, or ""'),
        "/var/run/crio/crio.sock",
      ),
    },
  ),

  metrics: section("Crib's own metrics, for Prometheus.", {
    address: key(
      'HOST:PORT to answer GET /metrics on, as "127.0.0.1:9537" or "[::1]:9537": plain http, for all who\n' +
        'reach it. "" is off.',
      optionalHostAndPort,
      "",
    ),
  }),

  image: section("Images and registries.", {
    registries_conf: key(
      "containers-registries.conf(5).",
      absolutePath,
      "/etc/containers/registries.conf",
    ),
    registries_conf_dir: key("Its drop-ins.", absolutePath, "/etc/containers/registries.conf.d"),
    auth_file: key(
      "Registry credentials, containers-auth.json(5). The only such file that is read; it need not be\n" +
        'there. "" searches where podman and Docker keep theirs.',
      optionalPath,
      "",
    ),
    certs_dirs: key(
      "containers-certs.d(5): the first that has a directory HOST[:PORT] counts for that registry.",
      v.array(absolutePath),
      ["/etc/containers/certs.d", "/etc/docker/certs.d"],
    ),
    policy: key(
      "Which images may be used, containers-policy.json(5). All, where the default file is not there.",
      absolutePath,
      "/etc/containers/policy.json",
    ),
    policy_dir: key(
      "Policies of single namespaces, NAMESPACE.json, instead of the above.",
      absolutePath,
      "/etc/crib/policies",
    ),
    registries_d: key(
      "Where signatures are kept, containers-registries.d(5).",
      absolutePath,
      "/etc/containers/registries.d",
    ),
    preload_dir: key(
      "Archives here (OCI layouts, docker save; also compressed) are imported at start and when they\n" +
        'appear or change; their images are pinned. "" is <crib.root>/preload.',
      optionalPath,
      "",
    ),
    pinned: key(
      'Images that are never garbage-collected; "*" at either end matches anything.',
      v.array(v.pipe(v.string(), v.nonEmpty("must not be empty"))),
      [],
    ),
    max_parallel_layers: key(
      "Layers that are fetched and unpacked at once, over all pulls; never more than four, nor than one\n" +
        "more than the machine has processors.",
      integer(1, 64),
      4,
    ),
    download_limit_bytes_per_second: key(
      "All downloads of layers together are no faster than this. 0 is no limit.",
      v.pipe(
        integer(0, Number.MAX_SAFE_INTEGER),
        v.check((limit) => limit === 0 || limit >= 1024, "must be 0, or at least 1024"),
      ),
      0,
    ),
    no_progress_timeout_seconds: key(
      "A pull that has moved less than 1024 bytes in this time is given up. 0 never gives up.",
      seconds(0, 86_400),
      60,
    ),
    max_layer_bytes: key(
      "A layer that unpacks to more than this is refused.",
      integer(1, Number.MAX_SAFE_INTEGER),
      64 * GIB,
    ),
    max_layer_entries: key(
      "A layer with more files than this is refused.",
      integer(1, 1_000_000_000),
      2_000_000,
    ),
  }),
});

/** The validated configuration; keys are named as in crib.toml. Seconds and bytes are plain numbers. */
export type Config = v.InferOutput<typeof configSchema>;

/** The configuration of a daemon that was given no file and no flag. */
export function defaultConfig(): Config {
  return v.parse(configSchema, {});
}
