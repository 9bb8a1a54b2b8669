/** The cases of kubelet-lifecycle, with runc instead of crun. */
import "./with-runc.ts";
import "./kubelet-lifecycle.test.ts";
