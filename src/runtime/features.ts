import { release } from "node:os";
import * as v from "valibot";

/**
 * What matters of an OCI runtime's `features` output
 * (https://github.com/opencontainers/runtime-spec/blob/main/features.md).
 */
export interface RuntimeFeatures {
  /** Recursive read-only mounts: the mount option "rro". */
  recursiveReadOnlyMounts: boolean;
  /** Idmapped mounts, which pods with user namespaces need. */
  idmapMounts: boolean;
  seccomp: boolean;
  apparmor: boolean;
  selinux: boolean;
}

export const noFeatures: RuntimeFeatures = {
  recursiveReadOnlyMounts: false,
  idmapMounts: false,
  seccomp: true,
  apparmor: true,
  selinux: true,
};

const enabled = v.optional(v.nullable(v.object({ enabled: v.optional(v.nullable(v.boolean())) })));
const schema = v.object({
  mountOptions: v.optional(v.nullable(v.array(v.string()))),
  linux: v.optional(
    v.nullable(
      v.object({
        seccomp: enabled,
        apparmor: enabled,
        selinux: enabled,
        mountExtensions: v.optional(v.nullable(v.object({ idmap: enabled }))),
      }),
    ),
  ),
});

/** mount_setattr(2), by which a runtime does both: the runtime says "rro" also where the kernel cannot. */
function hasMountAttributes(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split(".").map(Number.parseFloat);
  return major > 5 || (major === 5 && minor >= 12);
}

/** Reads the JSON of `features`; what cannot be read counts as not supported, and what the kernel cannot. */
export function parseFeatures(json: string, kernel = release()): RuntimeFeatures {
  let parsed: v.InferOutput<typeof schema>;
  try {
    parsed = v.parse(schema, JSON.parse(json));
  } catch {
    return noFeatures;
  }
  const attributes = hasMountAttributes(kernel);
  return {
    recursiveReadOnlyMounts: attributes && (parsed.mountOptions?.includes("rro") ?? false),
    idmapMounts: attributes && (parsed.linux?.mountExtensions?.idmap?.enabled ?? false),
    seccomp: parsed.linux?.seccomp?.enabled ?? false,
    apparmor: parsed.linux?.apparmor?.enabled ?? false,
    selinux: parsed.linux?.selinux?.enabled ?? false,
  };
}
