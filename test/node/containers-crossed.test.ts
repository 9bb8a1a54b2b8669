/** The cases of containers, with the other cgroup driver for each OCI runtime. */
import { testContainers } from "./containers.ts";

testContainers("crun", "cgroupfs");
testContainers("runc", "systemd");
