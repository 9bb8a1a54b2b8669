/** How long the texts may be that a client sends along and that lists and statuses repeat. */
import { CribError } from "../error.ts";
import type { ContainerConfig } from "../gen/runtime/v1/container_config_pb.ts";
import type { PodSandboxConfig } from "../gen/runtime/v1/pod_sandbox_config_pb.ts";
import { bytesOf } from "../state/kept-config.ts";

/**
 * Twice what Kubernetes allows the annotations of an object (TotalAnnotationSizeLimitB): labels, and what
 * the kubelet adds itself, count as well.
 */
const NOTES_LIMIT_BYTES = 512 * 1024;
/**
 * Entries of the lists of containers and pods. Of the first three the kernel takes some 6 MiB (execve(2)), and 5,000 services
 * in a namespace make 35,000 variables; of mounts it takes 100,000 for all containers of a pod.
 */
const LIST_LIMITS = {
  envs: 65_536,
  command: 65_536,
  args: 65_536,
  mounts: 4096,
  devices: 4096,
  portMappings: 4096,
};
/** A Kubernetes name has up to 253 characters, a reference some 500. */
const TEXT_LIMIT = 1024;

/** @throws CribError InvalidArgument, naming the field. */
export function refuseLong(config: PodSandboxConfig | ContainerConfig): void {
  refuseLongLists(config);
  const { metadata, labels, annotations, ...rest } = config;
  const image = "image" in rest ? rest.image : undefined;
  const bytes = bytesOf(labels, annotations, image?.annotations ?? {});
  if (bytes > NOTES_LIMIT_BYTES) {
    const why = `${bytes} bytes together, at most ${NOTES_LIMIT_BYTES}`;
    throw new CribError("InvalidArgument", `config.labels and config.annotations: ${why}`);
  }
  const texts = {
    ...Object.fromEntries(
      Object.entries(metadata ?? {}).map(([name, value]) => [`metadata.${name}`, value]),
    ),
    "image.image": image?.image,
    "image.user_specified_image": image?.userSpecifiedImage,
  };
  for (const [field, text] of Object.entries(texts)) {
    if (typeof text !== "string" || text.length <= TEXT_LIMIT) continue;
    const why = `${text.length} characters, at most ${TEXT_LIMIT}`;
    throw new CribError(
      "InvalidArgument",
      `config.${field}: ${JSON.stringify(text.slice(0, 100))}…: ${why}`,
    );
  }
}

function refuseLongLists(config: PodSandboxConfig | ContainerConfig): void {
  const lists = new Map<string, unknown>(Object.entries(config));
  for (const [field, limit] of Object.entries(LIST_LIMITS)) {
    const list = lists.get(field);
    if (!Array.isArray(list) || list.length <= limit) continue;
    const why = `${list.length} entries, at most ${limit}`;
    throw new CribError("InvalidArgument", `config.${field}: ${why}`);
  }
}
