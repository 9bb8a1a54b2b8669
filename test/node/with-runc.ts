/** Imported before a file of kubelet cases, it makes runc the default handler of them. */
import { Kubelet } from "./kubelet.ts";

Kubelet.settings = { runtime: { default_handler: "runc" } };
