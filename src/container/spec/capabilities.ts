import type { Capability } from "../../gen/runtime/v1/security_pb.ts";
import { capabilityNames } from "../../linux/host.ts";
import type { OciCapabilities } from "./oci.ts";
import { impossible, invalid } from "./refuse.ts";

export interface CapabilityRequest {
  /** `linux.security_context.capabilities` of the container. */
  requested: Capability | undefined;
  privileged: boolean;
  uid: number;
  /** `runtime.default_capabilities` of the configuration. */
  defaults: readonly string[];
  /** What the daemon itself has and so may give. */
  available: readonly string[];
}

const FIELD = "linux.security_context.capabilities";
const known = new Set(capabilityNames);

/**
 * The five capability sets of the container's process.
 *
 * A user other than root gets no effective and permitted set, as execve(2) would leave it, unless the
 * capability is ambient (KEP-2763). Nothing is inheritable but what is ambient (CVE-2022-24769).
 * What of the defaults the daemon does not have is left out with a warning: the OCI runtime would fail on it.
 *
 * @throws CribError InvalidArgument: not a capability; FailedPrecondition: asked for by name, and Crib does
 *   not have it to give.
 */
export function buildCapabilities(request: CapabilityRequest): {
  capabilities: OciCapabilities;
  warnings: string[];
} {
  const warnings: string[] = [];
  const available = new Set(request.available.map((name) => canonical(name, "host.capabilities")));
  const add = namesOf(request.requested?.addCapabilities, "add_capabilities");
  const drop = namesOf(request.requested?.dropCapabilities, "drop_capabilities");
  const ambientAsked = namesOf(
    request.requested?.addAmbientCapabilities,
    "add_ambient_capabilities",
  );
  if (!request.privileged) requireAvailable(add, drop, available, "add_capabilities");
  requireAvailable(ambientAsked, new Set(), available, "add_ambient_capabilities");

  const wanted = request.privileged
    ? new Set(available)
    : wantedSet(request.defaults, add, drop, available);
  if (request.privileged && drop.size > 0) {
    warnings.push(`${FIELD}.drop_capabilities has no effect: the container is privileged`);
  }
  const ambientWanted = ambientSet(ambientAsked, request.privileged ? new Set() : drop, wanted);
  for (const name of ambientWanted) wanted.add(name);

  const missing = inOrder(wanted).filter((name) => !available.has(name));
  if (missing.length > 0) {
    const list = missing.map((name) => `CAP_${name}`).join(", ");
    warnings.push(`${list}: not given to the container, Crib itself does not have it`);
  }
  const bounding = oci(inOrder(wanted).filter((name) => available.has(name)));
  const ambient = oci(inOrder(ambientWanted).filter((name) => available.has(name)));
  const effective = request.uid === 0 ? bounding : ambient;
  return {
    capabilities: {
      bounding,
      effective: [...effective],
      permitted: [...effective],
      inheritable: [...ambient],
      ambient: [...ambient],
    },
    warnings,
  };
}

function requireAvailable(
  asked: ReadonlySet<string>,
  drop: ReadonlySet<string>,
  available: ReadonlySet<string>,
  list: string,
): void {
  for (const name of asked) {
    if (name === "ALL" || drop.has(name) || available.has(name)) continue;
    throw impossible(`${FIELD}.${list}`, name, "Crib itself does not have this capability");
  }
}

/** "ALL" is the base; single names then win over the other side's ALL, and a drop over an add. */
function wantedSet(
  defaults: readonly string[],
  add: ReadonlySet<string>,
  drop: ReadonlySet<string>,
  available: ReadonlySet<string>,
): Set<string> {
  let wanted = new Set(defaults.map((name) => canonical(name, "runtime.default_capabilities")));
  if (add.has("ALL")) wanted = new Set(available);
  if (drop.has("ALL")) wanted = new Set();
  for (const name of add) if (name !== "ALL") wanted.add(name);
  for (const name of drop) wanted.delete(name);
  return wanted;
}

function ambientSet(
  asked: ReadonlySet<string>,
  drop: ReadonlySet<string>,
  wanted: ReadonlySet<string>,
): Set<string> {
  for (const name of asked) {
    if (drop.has(name)) {
      throw invalid(`${FIELD}.add_ambient_capabilities`, name, "is also in drop_capabilities");
    }
  }
  const ambient = new Set(asked.has("ALL") ? wanted : []);
  for (const name of asked) if (name !== "ALL") ambient.add(name);
  return ambient;
}

function namesOf(values: readonly string[] | undefined, list: string): Set<string> {
  const field = `${FIELD}.${list}`;
  const names = (values ?? []).map((value) =>
    value.toUpperCase() === "ALL" ? "ALL" : canonical(value, field),
  );
  return new Set(names);
}

/** "cap_net_raw", "NET_RAW" → "NET_RAW". */
function canonical(value: string, field: string): string {
  const name = value.toUpperCase().replace(/^CAP_/, "");
  if (!known.has(name)) throw invalid(field, value, "is not a Linux capability");
  return name;
}

function inOrder(names: ReadonlySet<string>): string[] {
  return capabilityNames.filter((name) => names.has(name));
}

function oci(names: readonly string[]): string[] {
  return names.map((name) => `CAP_${name}`);
}
