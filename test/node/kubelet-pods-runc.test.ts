/** The cases of kubelet-pods, with runc instead of crun. */
import "./with-runc.ts";
import "./kubelet-pods.test.ts";
