/** What `npm test` can run, in the order in which it runs. */
export const kinds = ["unit", "integration", "conformance"] as const;
export type Kind = (typeof kinds)[number];

export interface Selection {
  kinds: Kind[];
  /** Parts of file names (`monitor`, `state-database`); none = every file. */
  names: string[];
  /** False with `--no-build`: the last build is tested. */
  build: boolean;
}

/**
 * Reads the arguments of `npm test`: kinds and parts of file names in any order. Without a kind all
 * run; names choose among the files of unit and integration, so they leave conformance out unless
 * it is asked for.
 */
export function select(argv: string[]): Selection {
  const isKind = (word: string): word is Kind => kinds.some((kind) => kind === word);
  const build = !argv.includes("--no-build");
  const words = argv.filter((word) => word !== "--no-build");
  const chosen = words.filter(isKind);
  const names = words.filter((word) => !isKind(word));
  const option = names.find((name) => name.startsWith("-"));
  if (option !== undefined) {
    throw new Error(
      `npm test has no option ${option}: give --no-build, ${kinds.join(", ")} or parts of names`,
    );
  }
  if (chosen.length > 0)
    return { kinds: kinds.filter((kind) => chosen.includes(kind)), names, build };
  return { kinds: names.length > 0 ? ["unit", "integration"] : [...kinds], names, build };
}

/** The test files of `kind` (paths from the repository's root, sorted) that `names` allows. */
export function selectFiles(files: string[], kind: Kind, names: string[]): string[] {
  const folder = `test/${kind}/`;
  return files
    .filter((file) => file.startsWith(folder) && file.endsWith(".test.ts"))
    .filter((file) => names.length === 0 || names.some((name) => file.includes(name)))
    .sort();
}
