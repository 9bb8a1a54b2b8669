import { imagesOf } from "../container/image-volumes.ts";
import { CribError } from "../error.ts";
import type { ImageAdminServiceDefinition } from "../gen/crib/v1/image_admin_pb.ts";
import type { Image } from "../image/images.ts";
import type { CriContext } from "./context.ts";
import type { ServiceImpl } from "./service.ts";

/** What `crib images` asks: ImportImages, PruneImages, CheckImages. */
export function imageAdminRpcs({ core }: CriContext) {
  return {
    async importImages({ path, name }, { signal }) {
      if (!path.startsWith("/")) throw new CribError("InvalidArgument", `path: "${path}"`);
      const images = await core.images.import(path, { name, signal });
      return { images: images.map(toStored) };
    },

    async pruneImages() {
      const containers = [...core.store.containers.values()];
      const used = new Set(containers.flatMap((container) => imagesOf(core, container)));
      const images = await core.images.prune((id) => used.has(id));
      return { images: images.map(toStored) };
    },
    async checkImages({ fast, repair }, { signal }) {
      const { checkedLayers, damaged } = await core.images.check({ fast, repair }, signal);
      return { checkedLayers: BigInt(checkedLayers), damaged };
    },
  } satisfies ServiceImpl<typeof ImageAdminServiceDefinition>;
}

function toStored({ id, repoTags, repoDigests, sizeBytes }: Image) {
  return { id, names: [...repoTags, ...repoDigests], sizeBytes: BigInt(sizeBytes) };
}
