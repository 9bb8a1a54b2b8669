import { expect, test } from "bun:test";
import { chooseFiles, shareOut } from "../node/shards.ts";

const all = [
  "reboot-2-x",
  "containers",
  "containers-crossed",
  "critest-crun-systemd",
  "critest-kernel",
  "kubelet-pods-runc",
  "reboot-1-start",
  "measure-scopes",
];

test("no word is what CI runs, all is all, others are names or parts of them", () => {
  expect(chooseFiles(all, [])).toEqual([
    "containers",
    "critest-kernel",
    "reboot-1-start",
    "reboot-2-x",
  ]);
  expect(chooseFiles(all, ["all"])).toEqual([...all].sort());
  expect(chooseFiles(all, ["critest-c", "2"])).toEqual(["critest-crun-systemd", "reboot-2-x"]);
  expect(chooseFiles(all, ["nothing"])).toEqual([]);
  const pods = ["kubelet-pods", "kubelet-pods-runc"];
  expect(chooseFiles(pods, ["kubelet-pods"])).toEqual(["kubelet-pods"]);
  expect(chooseFiles(pods, ["pods"])).toEqual(pods);
});

test("files are shared out evenly; what reboots the machine stays together and in order", () => {
  const files = ["containers", "daemon", "kubelet-upkeep", "reboot-2-x", "reboot-1-start"];
  expect(shareOut(files, 1)).toEqual([
    ["containers", "daemon", "kubelet-upkeep", "reboot-1-start", "reboot-2-x"],
  ]);
  const shards = shareOut(files, 2);
  expect(shards.flat().sort()).toEqual([...files].sort());
  expect(shards).toContainEqual(["containers", "reboot-1-start", "reboot-2-x"]);
  expect(shareOut(["daemon"], 2)).toEqual([["daemon"]]);
});
