/** critest with runc and the cgroupfs driver. */
import { declareCritest } from "./critest.ts";

declareCritest({ default_handler: "runc", cgroup_driver: "cgroupfs" });
