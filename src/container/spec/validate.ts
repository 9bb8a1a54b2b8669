import { CribError } from "../../error.ts";
import type { SpecInput } from "./input.ts";
import { invalid, unsupported } from "./refuse.ts";

/** Device plugins name CDI devices so where the kubelet does not (before 1.31); both peers inject them. */
const CDI_PREFIX = "cdi.k8s.io/";

/**
 * Refuses what no part of the spec could honour. Fields that one part owns are checked there; what
 * is listed here as not supported yet is lifted here.
 */
export function validateContainer(input: SpecInput): void {
  const { config } = input.container;
  if (config.metadata === undefined || config.metadata.name === "") {
    throw invalid("metadata.name", config.metadata?.name ?? "", "must not be empty");
  }
  if (config.windows !== undefined) {
    throw invalid("windows", "(set)", "this is a Linux node");
  }
  const device = config.CDIDevices[0];
  if (device !== undefined) {
    throw unsupported("CDI_devices[0]", device.name, "Crib has no CDI devices yet");
  }
  const injected = Object.keys(config.annotations).find((key) => key.startsWith(CDI_PREFIX));
  if (injected !== undefined) {
    const devices = config.annotations[injected];
    throw unsupported(`annotations["${injected}"]`, devices, "Crib has no CDI devices yet");
  }
  if (config.linux?.securityContext?.privileged === true && !input.pod.privileged) {
    throw invalid(
      "linux.security_context.privileged",
      true,
      "the pod sandbox was made without privileged",
    );
  }
  if (input.systemdCgroup && input.cgroupsPath.split(":").length !== 3) {
    const text = `cgroupsPath ${input.cgroupsPath}: the systemd driver needs SLICE:PREFIX:NAME`;
    throw new CribError("Internal", text);
  }
  if (/[\0\n]/.test(input.pod.hostname)) {
    throw invalid("hostname", input.pod.hostname, "holds a NUL byte or a line break");
  }
}
