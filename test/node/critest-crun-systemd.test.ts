/** critest with crun and the systemd driver: what a user has. */
import { declareCritest } from "./critest.ts";

declareCritest({ default_handler: "crun", cgroup_driver: "systemd" });
