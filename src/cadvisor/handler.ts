import { type ContainerInfo, findInfo, type InfoContext } from "./container-info.ts";

export interface CadvisorOptions extends InfoContext {
  /** Where images and containers are kept: its file system is what cAdvisor calls CRI-O's. */
  storageRoot: string;
}

const PATH = /^(?:[a-z]+:\/\/[^/?#]*)?(\/[^?#]*)/i;
const CONTAINER = /^\/containers\/([0-9a-f]{64})$/;

/**
 * Answers what cAdvisor asks of CRI-O: GET /info and GET /containers/ID. Read-only, from memory, one
 * answer a connection: an idle one that the daemon closed just then cannot cost cAdvisor its question.
 */
export function cadvisorHandler(options: CadvisorOptions): (request: Request) => Response {
  const info = {
    storage_driver: "overlay",
    storage_root: options.storageRoot,
    // "" means that images and containers share the storage root's file system, as Crib's do.
    storage_image: "",
  };
  return ({ method, url }) => {
    if (method !== "GET") return refusal(405, "read-only", { allow: "GET" });
    const path = PATH.exec(url)?.[1];
    const [, id] = CONTAINER.exec(path ?? "") ?? [];
    if (path === "/info") return answer(JSON.stringify(info));
    if (id === undefined) return refusal(404, "there are /info and /containers/ID (64 digits)");
    const found = findInfo(options, id);
    if (found === undefined) return refusal(404, `no container or pod sandbox ${id}`);
    return answer(toJson(found));
  };
}

/** Nanoseconds do not fit a JavaScript number, but JSON's numbers have no such limit. */
function toJson(info: ContainerInfo): string {
  const { created_time: created, ...rest } = info;
  return `{"created_time":${created},${JSON.stringify(rest).slice(1)}`;
}

function answer(json: string): Response {
  return new Response(json, { headers: { "content-type": "application/json", ...CLOSE } });
}

function refusal(status: number, text: string, headers: Record<string, string> = {}): Response {
  return new Response(`${text}\n`, { status, headers: { ...headers, ...CLOSE } });
}

const CLOSE = { connection: "close" };
