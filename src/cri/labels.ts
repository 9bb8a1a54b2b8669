/** Whether `labels` hold every pair of the selector, as CRI's filters ask. */
export function hasLabels(
  labels: Record<string, string>,
  selector: Record<string, string> | undefined,
): boolean {
  return Object.entries(selector ?? {}).every(([key, value]) => labels[key] === value);
}
