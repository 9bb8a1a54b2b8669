interface Kept {
  readonly labels: Readonly<Record<string, string>>;
  readonly hasNotes: boolean;
}

/**
 * Whether a pod or container has every pair of the selector, as CRI's filters ask.
 *
 * @param whole its labels, where those that are kept in memory do not tell
 */
export function hasLabels(
  { labels, hasNotes }: Kept,
  selector: Readonly<Record<string, string>> | undefined,
  whole: () => Readonly<Record<string, string>>,
): boolean {
  const pairs = Object.entries(selector ?? {});
  const unknown = hasNotes ? [] : pairs.filter(([key]) => labels[key] === undefined);
  const has = (all: Kept["labels"]) => (pair: [string, string]) => all[pair[0]] === pair[1];
  if (!pairs.filter((pair) => !unknown.includes(pair)).every(has(labels))) return false;
  return unknown.length === 0 || unknown.every(has(whole()));
}
