/** How Crib runs itself again to read what images bring: through the native helper (src/native/confine.c). */
import { type Capability, capabilityMask } from "../linux/capabilities.ts";

export interface Confinement {
  capabilities: readonly Capability[];
  /**
   * A directory, absolute, which the child makes its root by `confine` (src/linux/confine.ts): itself, or,
   * with `mounts`, only the place of an empty one.
   */
  root: string;
  /** Directories by the names that they have in the empty root; nobody writes to others than `writable`. */
  mounts?: ReadonlyArray<{ source: string; name: string; writable?: boolean }>;
}

/** The argv of a confined child, from what comes behind Crib's own. */
export type ChildCommand = (confinement: Confinement, args: readonly string[]) => string[];

/**
 * @param executable argv to run Crib again, absolute paths that hold for other processes too
 * @param helper the native helper's path; asked when a child is started
 */
export function childCommand(executable: readonly string[], helper: () => string): ChildCommand {
  return ({ capabilities, root, mounts = [] }, args) => {
    const sources = mounts.flatMap(({ source, name, writable = false }) => [
      ...[writable ? "rw" : "ro", source, name],
    ]);
    const confinement = ["confine", capabilityMask(capabilities), root, ...sources];
    return [helper(), ...confinement, "--", ...executable, ...args];
  };
}
