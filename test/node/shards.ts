/** Which test files run, and on which of several machines that run side by side. */

/** Minutes that a file takes beside another machine on two processors; only for sharing out. */
const minutes: Record<string, number> = {
  check: 2,
  containers: 2.5,
  "containers-crossed": 2.5,
  daemon: 4,
  faults: 1.5,
  install: 3,
  "kubelet-drivers": 2.5,
  "kubelet-grace": 2.5,
  "kubelet-lifecycle": 8.5,
  "kubelet-lifecycle-runc": 8.5,
  "kubelet-pods": 7,
  "kubelet-pods-runc": 7,
  "kubelet-streams": 3,
  "kubelet-upkeep": 5.5,
  "reboot-1-start": 5,
  "critest-kernel": 2,
  "critest-crun-systemd": 7,
  "critest-runc-cgroupfs": 7,
  "measure-scopes": 4,
};

/** What only "all" or a file's own name runs: long and covered in part by another file, or no test. */
const onRequest = /^critest-(crun|runc)|^measure-|-runc$|-crossed$/;

/** Names of test files that `words` mean: none is what CI runs, "all" is all, else names or parts of them. */
export function chooseFiles(all: readonly string[], words: readonly string[]): string[] {
  const sorted = [...all].sort();
  if (words.length === 0) return sorted.filter((file) => !onRequest.test(file));
  if (words.includes("all")) return sorted;
  const means = (word: string, file: string) =>
    sorted.includes(word) ? file === word : file.includes(word);
  return sorted.filter((file) => words.some((word) => means(word, file)));
}

/** Shares files out to at most `machines` lists of about the same length, each in order of names. */
export function shareOut(files: readonly string[], machines: number): string[][] {
  // What reboots the machine is one story in several files.
  const stories = Map.groupBy(files, (file) => (file.startsWith("reboot-") ? "reboot" : file));
  const shards = Array.from({ length: machines }, () => ({ minutes: 0, files: [] as string[] }));
  const lengthOf = (story: readonly string[]) =>
    story.reduce((sum, file) => sum + (minutes[file] ?? 1), 0);
  for (const story of [...stories.values()].sort((a, b) => lengthOf(b) - lengthOf(a))) {
    const [shard] = shards.sort((a, b) => a.minutes - b.minutes);
    shard?.files.push(...story);
    if (shard !== undefined) shard.minutes += lengthOf(story);
  }
  return shards.map((shard) => shard.files.sort()).filter((list) => list.length > 0);
}
