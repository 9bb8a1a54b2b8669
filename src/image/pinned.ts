/** Image.pinned: which images the kubelet must not garbage-collect. */

/** Turns a pattern of `image.pinned` into a test; "*" at either end stands for any text. */
function matcher(pattern: string): (name: string) => boolean {
  const text = pattern.replace(/^\*|\*$/g, "");
  const open = pattern.startsWith("*");
  const wide = pattern.endsWith("*");
  if (open && wide) return (name) => name.includes(text);
  if (open) return (name) => name.endsWith(text);
  if (wide) return (name) => name.startsWith(text);
  return (name) => name === text;
}

/** Tells whether an image is pinned, by any of its names or its id. */
export function pinnedBy(
  patterns: readonly string[],
): (image: { id: string; repoTags: string[]; repoDigests: string[] }) => boolean {
  const matchers = patterns.map(matcher);
  return ({ id, repoTags, repoDigests }) =>
    [id, ...repoTags, ...repoDigests].some((name) => matchers.some((matches) => matches(name)));
}
