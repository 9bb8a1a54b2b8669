/** The groups of critest for which it takes this kernel: no host of `npm run conformance` has to have it. */
import { declareCritest } from "./critest.ts";

declareCritest({ default_handler: "crun", cgroup_driver: "systemd" }, [
  "AppArmor",
  "Container OOM",
]);
