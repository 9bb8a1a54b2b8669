import { checkImage, requireImage } from "../container/image-spec.ts";
import { JsonText } from "../container/info.ts";
import { ImageSpec } from "../gen/runtime/v1/common_pb.ts";
import type { Image as ImageMessage } from "../gen/runtime/v1/image_pb.ts";
import type { ImageServiceDefinition } from "../gen/runtime/v1/image_service_pb.ts";
import type { Image } from "../image/images.ts";
import type { CriContext } from "./context.ts";
import { ListBudget } from "./list-budget.ts";
import { type ServiceImpl, VerboseAnswer } from "./service.ts";

/** PullImage, ListImages, ImageStatus, RemoveImage, ImageFsInfo. */
export function imageRpcs({ core, stats }: CriContext) {
  const trims = [
    { what: "annotations", trim: withoutAnnotations },
    { what: "names", trim: withFewNames },
  ];
  const budget = new ListBudget("ListImages", trims);
  const statusBudget = new ListBudget("ImageStatus", trims);
  return {
    async pullImage({ image, auth, sandboxConfig }, { signal }) {
      const namespace = sandboxConfig?.metadata?.namespace ?? "";
      const name = requireImage(core, image, "image");
      const pulled = await core.images.pull(name, { auth, namespace, signal });
      return { imageRef: pulled.id };
    },

    listImages({ filter }) {
      const spec = filter?.image;
      checkImage(core, spec, "filter.image");
      const wanted = spec?.image ?? "";
      const found = wanted === "" ? undefined : core.images.find(wanted);
      const images = wanted === "" ? core.images.list() : found === undefined ? [] : [found];
      return { images: budget.fit(images.map(toImage)) };
    },

    async imageStatus({ image: spec, verbose }) {
      const image = core.images.find(requireImage(core, spec, "image"));
      // The kubelet pulls what is not there, with the pod's credentials, which no check has.
      if (image === undefined || !core.images.isWhole(image)) return {};
      if (!core.images.documents.isReadable(image.id)) return {};
      const annotations = core.images.documents.annotations(image.id);
      const [answer] = statusBudget.fit([toImage({ ...image, annotations })]);
      return verbose ? verboseImage(core, image, { image: answer }) : { image: answer };
    },

    async removeImage({ image }) {
      await core.images.remove(requireImage(core, image, "image"));
      return {};
    },

    async imageFsInfo() {
      const timestamp = BigInt(Date.now()) * 1_000_000n;
      const images = core.images.fsInfo();
      // One file system, one name: where the two differ, the kubelet evicts as on a split one.
      const fsId = { mountpoint: core.config.crib.root };
      stats.retain(core.store.containers);
      const layers = [...core.store.containers.keys()].map((id) => ({
        id,
        layerDirectory: core.storage.diff(id),
      }));
      const containers = await stats.total(layers);
      return {
        imageFilesystems: [
          {
            timestamp,
            fsId,
            usedBytes: { value: BigInt(images.usedBytes) },
            inodesUsed: { value: BigInt(images.inodesUsed) },
          },
        ],
        containerFilesystems: [
          {
            timestamp,
            fsId,
            usedBytes: { value: containers.bytes },
            inodesUsed: { value: containers.inodes },
          },
        ],
      };
    },
  } satisfies ServiceImpl<typeof ImageServiceDefinition>;
}

function withoutAnnotations(image: ImageMessage): ImageMessage {
  return { ...image, spec: image.spec && { ...image.spec, annotations: {} } };
}

/** The kubelet reports five of them, and keeps images by their ids. */
function withFewNames({ repoTags, repoDigests, ...image }: ImageMessage): ImageMessage {
  const few = (names: string[]) => names.slice(0, NAMES_IN_LISTS);
  return { ...image, repoTags: few(repoTags), repoDigests: few(repoDigests) };
}
const NAMES_IN_LISTS = 8;

/**
 * What `crictl inspecti` shows beside the status: `imageSpec`, the image's whole configuration, as with both
 * peers; `labels` as with CRI-O, `chainID` as with containerd.
 */
function verboseImage<A>({ images }: CriContext["core"], image: Image, answer: A) {
  const spec = images.documents.configJson(image.id);
  const isShort = spec.length <= SHORT_SPEC_BYTES;
  const info = {
    chainID: image.layers.at(-1) ?? "",
    layers: image.layers,
    labels: isShort ? images.documents.config(image.id).Labels : undefined,
    imageSpec: new JsonText(spec),
  };
  return new VerboseAnswer(answer, info, isShort ? [] : ["labels"]);
}

/** Of a longer one the labels are told once, in itself. */
const SHORT_SPEC_BYTES = 64 * 1024;

const LARGEST_INT64 = 2n ** 63n - 1n;

/** CRI's form of an image. The kubelet's runAsNonRoot check needs the user: a number or a name. */
function toImage(image: Image): ImageMessage {
  const user = image.user.split(":")[0] ?? "";
  // What is no int64 is taken for a name, as containerd does: one image must not break the list.
  const numeric = /^\d{1,19}$/.test(user) && BigInt(user) <= LARGEST_INT64;
  return {
    id: image.id,
    repoTags: image.repoTags,
    repoDigests: image.repoDigests,
    size: BigInt(image.sizeBytes),
    uid: numeric ? { value: BigInt(user) } : undefined,
    username: numeric ? "" : user,
    spec: ImageSpec.fromPartial({ image: image.id, annotations: image.annotations }),
    pinned: image.pinned,
  };
}
