/** The result of a CNI ADD. Source: CNI specification 1.1.0, section 5 "ADD Success". */
import { isIP } from "node:net";
import * as v from "valibot";
import { validate } from "./conflist.ts";

const cidr = v.pipe(
  v.string(),
  v.check((value) => {
    const [address = "", prefix = "", ...rest] = value.split("/");
    const bits = isIP(address) === 4 ? 32 : 128;
    return rest.length === 0 && isIP(address) !== 0 && /^\d+$/.test(prefix) && +prefix <= bits;
  }, "must be an address in CIDR notation"),
);

const resultSchema = v.looseObject({
  interfaces: v.optional(
    v.nullable(
      v.array(
        v.looseObject({
          name: v.string(),
          mac: v.optional(v.string(), ""),
          mtu: v.optional(v.number()),
          sandbox: v.optional(v.string(), ""),
        }),
      ),
    ),
  ),
  ips: v.optional(
    v.nullable(
      v.array(
        v.looseObject({
          address: cidr,
          gateway: v.optional(v.nullable(v.string())),
          interface: v.optional(v.nullable(v.pipe(v.number(), v.integer()))),
        }),
      ),
    ),
  ),
});

/** An interface of an attachment; `sandbox` is "" for those on the host. */
export interface NetworkInterface {
  name: string;
  mac: string;
  sandbox: string;
  mtu?: number;
}

export interface NetworkResult {
  /** The pod's addresses without prefix length, in the order of the plugins; never empty. */
  ips: string[];
  interfaces: NetworkInterface[];
  /** The whole result as the last plugin gave it. */
  raw: unknown;
}

/**
 * Validates what the last plugin returned.
 *
 * @throws Error whose message says what is wrong with it.
 */
export function parseResult(raw: unknown): NetworkResult {
  const { interfaces: listed, ips: addresses } = validate(resultSchema, raw ?? {});
  const interfaces = (listed ?? []).map(({ name, mac, sandbox, mtu }) => ({
    name,
    mac,
    sandbox,
    ...(mtu === undefined ? {} : { mtu }),
  }));
  const ips: string[] = [];
  for (const { address, interface: index } of addresses ?? []) {
    const owner = index === undefined || index === null || index < 0 ? undefined : index;
    if (owner !== undefined && interfaces[owner] === undefined) {
      throw new Error(`ips: ${address} belongs to interface ${owner}, which is not in the result`);
    }
    const onHost = owner !== undefined && interfaces[owner]?.sandbox === "";
    const ip = address.split("/")[0] ?? "";
    if (!onHost && !isLoopback(ip) && !ips.includes(ip)) ips.push(ip);
  }
  if (ips.length === 0) throw new Error("ips: there is no address for the pod");
  return { ips, interfaces, raw };
}

function isLoopback(ip: string): boolean {
  return ip.startsWith("127.") || ip === "::1";
}
