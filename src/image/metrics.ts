import type { Metric } from "../observe/metric.ts";
import type { Images } from "./images.ts";
import type { PullView } from "./progress.ts";

/** What images tell of themselves. */
export function imageMetrics(images: Images): Metric[] {
  const { progress } = images;
  const counter = (name: string, help: string, read: () => number): Metric => ({
    name: `crib_image_${name}`,
    help,
    type: "counter",
    read: () => [{ value: read() }],
  });
  const gauge = (name: string, help: string, read: () => number): Metric => ({
    ...counter(name, help, read),
    type: "gauge",
  });
  const running = (name: string, help: string, read: (pull: PullView) => number): Metric => ({
    name: `crib_image_pull_${name}`,
    help: `${help}, of each pull that runs.`,
    type: "gauge",
    labels: ["image"],
    read: () =>
      progress.list().map((pull) => ({ labels: { image: pull.image }, value: read(pull) })),
  });
  return [
    {
      name: "crib_image_pulls_total",
      help: "Pulls and imports that have ended, by result.",
      type: "counter",
      labels: ["result"],
      read: () =>
        (["succeeded", "failed", "canceled"] as const).map((result) => ({
          labels: { result },
          value: progress.totals[result],
        })),
    },
    counter("pull_seconds_total", "Time of those together.", () => progress.totals.seconds),
    counter("downloaded_bytes_total", "Bytes of layers that came.", () => progress.totals.bytes),
    counter("unpacked_layers_total", "Layers that were unpacked.", () => progress.totals.layers),
    gauge("pulls_running", "Pulls and imports that run.", () => progress.list().length),
    running("bytes", "Bytes that have come", ({ bytes }) => bytes),
    running("expected_bytes", "Bytes that must come", ({ totalBytes }) => totalBytes),
    running("layers", "Layers that are there", ({ layers }) => layers),
    running("expected_layers", "Layers of the image", ({ totalLayers }) => totalLayers),
    gauge("images", "Images that are there.", () => images.list().length),
    gauge("store_bytes", "What all layers take on disk.", () => images.fsInfo().usedBytes),
    gauge("store_inodes", "Files of all layers.", () => images.fsInfo().inodesUsed),
  ];
}
