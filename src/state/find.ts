import { CribError } from "../error.ts";
import type { ContainerRecord, PodRecord } from "./records.ts";
import type { Store } from "./store.ts";

function find<T extends { id: string }>(
  what: string,
  records: Map<string, T>,
  id: string,
): T | undefined {
  if (id === "") throw new CribError("InvalidArgument", `${what} id is empty`);
  const exact = records.get(id);
  if (exact !== undefined) return exact;
  const matches = [...records.values()].filter((record) => record.id.startsWith(id));
  if (matches.length > 1) {
    throw new CribError("InvalidArgument", `${what} id "${id}" matches ${matches.length} of them`);
  }
  return matches[0];
}

/** The pod with this id or unambiguous prefix; one that is still being made is not there yet. */
export function findPod(store: Store, id: string): PodRecord | undefined {
  const pod = find("pod sandbox", store.pods, id);
  return pod?.phase === "creating" ? undefined : pod;
}

/** The container with this id or unambiguous prefix; one that is still being made is not there yet. */
export function findContainer(store: Store, id: string): ContainerRecord | undefined {
  const container = find("container", store.containers, id);
  return container?.phase === "creating" ? undefined : container;
}

/** @throws CribError NotFound */
export function requirePod(store: Store, id: string): PodRecord {
  const pod = findPod(store, id);
  if (pod === undefined) throw new CribError("NotFound", `pod sandbox "${id}" is not there`);
  return pod;
}

/** @throws CribError NotFound */
export function requireContainer(store: Store, id: string): ContainerRecord {
  const container = findContainer(store, id);
  if (container === undefined) throw new CribError("NotFound", `container "${id}" is not there`);
  return container;
}
