/**
 * Lists stay far below the 16 MiB that the kubelet takes as one answer: over a longer one it loses its
 * node. What others put into pods, containers and images is left out of lists before an entry is; the
 * Status RPCs tell all of it.
 */
import { log } from "../observe/log.ts";
import { kubelets } from "../state/kept-config.ts";

/** Of weight. A list of mere ASCII may have a third of it, and takes some milliseconds to make. */
export const LIST_LIMIT = 12 * 1024 * 1024;
/** What a number takes, or the tag and length before a string or message. */
const FIELD = 12;
/** For each name and item: a million short ones take time, however few bytes they have. */
const ITEM = 24;

/** Of what entries share with records, which are asked for every second and never change. */
const known = new WeakMap<object, number>();

/**
 * No less than an entry's bytes on the wire, without reading its strings: none of their UTF-16 units has
 * more than three bytes in UTF-8. What is in the entry is taken to stay as it is.
 */
export function weightOf(entry: object): number {
  let weight = FIELD;
  for (const [name, member] of Object.entries(entry)) {
    weight += ITEM + 3 * name.length;
    if (typeof member === "string") weight += 3 * member.length;
    else if (typeof member === "object" && member !== null) weight += knownWeight(member);
    else weight += FIELD;
  }
  return weight;
}

function knownWeight(member: object): number {
  const weight = known.get(member) ?? weightOf(member);
  known.set(member, weight);
  return weight;
}

/** Something that entries can do without in a list. */
export interface Trim<T> {
  /** For the log: "annotations". */
  what: string;
  /** The entry without it. */
  trim(entry: T): T;
}

/** One RPC's list. */
export class ListBudget<T extends object> {
  readonly #rpc: string;
  readonly #trims: ReadonlyArray<Trim<T>>;
  #told = "";

  /** `trims` come in their order: the next one only where those before were not enough. */
  constructor(rpc: string, trims: ReadonlyArray<Trim<T>>) {
    this.#rpc = rpc;
    this.#trims = trims;
  }

  /**
   * All entries in their order. Where they are too much, the heaviest come without what they can miss; one
   * that takes no more than its share of the room is never touched.
   */
  fit(entries: readonly T[]): T[] {
    const fitted = entries.map((entry, index) => ({ index, entry, weight: weightOf(entry) }));
    let total = fitted.reduce((sum, { weight }) => sum + weight, 0);
    const share = LIST_LIMIT / entries.length;
    const leftOut: string[] = [];
    for (const { what, trim } of this.#trims) {
      if (total <= LIST_LIMIT) break;
      const heavy = fitted.filter(({ weight }) => weight > share);
      let count = 0;
      for (const { index, entry, weight } of heavy.sort((a, b) => b.weight - a.weight)) {
        if (total <= LIST_LIMIT) break;
        const less = trim(entry);
        const lighter = weightOf(less);
        if (lighter >= weight) continue;
        fitted[index] = { index, entry: less, weight: lighter };
        total += lighter - weight;
        count += 1;
      }
      if (count > 0) leftOut.push(`${what} of ${count}`);
    }
    this.#tell(leftOut.join(", "), entries.length);
    return fitted.map(({ entry }) => entry);
  }

  /** Once: the kubelet asks every second. */
  #tell(leftOut: string, entries: number): void {
    if (leftOut === this.#told) return;
    this.#told = leftOut;
    const text =
      "a list is too long for the kubelet: it is told without some of its entries' fields";
    if (leftOut !== "") log().warn({ list: this.#rpc, entries, leftOut }, text);
  }
}

/** Leaves the kubelet's own. */
export function onlyKubelets<
  Field extends "annotations" | "labels",
  T extends { [F in Field]: Record<string, string> },
>(field: Field): Trim<T> {
  return { what: field, trim: (entry) => ({ ...entry, [field]: kubelets(entry[field]) }) };
}
