/** What `crib install` and `crib uninstall` would do: decided from what is there, before anything is done. */
import { CribError } from "../../error.ts";
import { authorshipOf, sign } from "./signed.ts";

/** A file that install wants. */
export interface WantedFile {
  path: string;
  body: string;
  /**
   * "refuse": a version that somebody else changed is an error without --force (the unit: what is run
   * must be what was installed). "keep": it is theirs (configuration).
   */
  whenEdited: "refuse" | "keep";
}

export type Step =
  | { kind: "directory"; path: string; mode: number; action: "created" | "unchanged" }
  | { kind: "executable"; path: string; action: "created" | "updated" | "unchanged" }
  | {
      kind: "file";
      path: string;
      text: string;
      action: "created" | "updated" | "unchanged" | "kept";
      note?: string;
    };

export interface InstallFacts {
  directories: ReadonlyArray<{ path: string; mode: number; exists: boolean }>;
  /** undefined: it runs from where it shall run. */
  executable?: { path: string; exists: boolean; same: boolean };
  files: ReadonlyArray<WantedFile & { current: string | undefined }>;
  force: boolean;
}

/**
 * The steps of an installation, in their order.
 *
 * @throws CribError FailedPrecondition: a unit that was edited by hand is in the way.
 */
export function planInstall(facts: InstallFacts): Step[] {
  const steps: Step[] = facts.directories.map(({ path, mode, exists }) => ({
    kind: "directory",
    path,
    mode,
    action: exists ? "unchanged" : "created",
  }));
  if (facts.executable !== undefined) {
    const { path, exists, same } = facts.executable;
    const action = same ? "unchanged" : exists ? "updated" : "created";
    steps.push({ kind: "executable", path, action });
  }
  return [...steps, ...facts.files.map((file) => planFile(file, facts.force))];
}

function planFile(file: WantedFile & { current: string | undefined }, force: boolean): Step {
  const { path, body, current } = file;
  const text = sign(body);
  const step = { kind: "file", path, text } as const;
  if (current === undefined) return { ...step, action: "created" };
  if (current === text) return { ...step, action: "unchanged" };
  const authorship = authorshipOf(current);
  if (authorship === "ours") return { ...step, action: "updated" };
  const who = authorship === "edited" ? "edited by hand" : "not written by crib install";
  if (file.whenEdited === "keep") return { ...step, action: "kept", note: who };
  if (force) return { ...step, action: "updated", note: `it was ${who}` };
  throw new CribError(
    "FailedPrecondition",
    `${path} is ${who}: --force overwrites it; better move your changes to a drop-in first ` +
      "(systemctl edit crib.service). Nothing was changed",
  );
}

/** Something that uninstall takes away or leaves. */
export interface Removal {
  path: string;
  kind: "file" | "directory" | "tree";
  action: "removed" | "kept";
  note?: string;
}

export interface UninstallFacts {
  unit: { path: string; current: string | undefined };
  /** The copy that install made; undefined: none, or not ours. */
  executable: string | undefined;
  configuration: ReadonlyArray<{ path: string; current: string | undefined; drops: boolean }>;
  /** Crib's entries in its root and state directories that exist. */
  data: readonly string[];
  /** Directories that go when they are empty, innermost first. */
  directories: readonly string[];
  purge: boolean;
  force: boolean;
}

/**
 * What goes and what stays, in order. Data and changed configuration stay unless `purge`.
 *
 * @throws CribError FailedPrecondition: the unit was edited by hand, and there is no --force.
 */
export function planUninstall(facts: UninstallFacts): Removal[] {
  const { unit, executable, configuration, data, directories, purge, force } = facts;
  const removals: Removal[] = [];
  if (unit.current !== undefined) {
    const authorship = authorshipOf(unit.current);
    if (authorship !== "ours" && !force) {
      const who = authorship === "edited" ? "edited by hand" : "not written by crib install";
      throw new CribError(
        "FailedPrecondition",
        `${unit.path} is ${who}: --force removes it all the same. Nothing was changed`,
      );
    }
    removals.push({ path: unit.path, kind: "file", action: "removed" });
  }
  if (executable !== undefined) {
    removals.push({ path: executable, kind: "file", action: "removed" });
  }
  for (const { path, current, drops } of configuration) {
    if (current === undefined) continue;
    const ours = authorshipOf(current) === "ours";
    const goes = ours || (purge && drops);
    const note = goes ? undefined : drops ? "changed by you; --purge removes it" : "changed by you";
    removals.push({ path, kind: "file", action: goes ? "removed" : "kept", note });
  }
  for (const path of data) {
    const note = purge ? undefined : "data; --purge removes it";
    removals.push({ path, kind: "tree", action: purge ? "removed" : "kept", note });
  }
  for (const path of directories) removals.push({ path, kind: "directory", action: "removed" });
  return removals;
}
