/** The virtual machine. Software emulation: it needs nothing of the host, and is some 10 times slower. */

export interface MachineOptions {
  kernel: string;
  initrd: string;
  /** Raw images: the first is the root file system (vda), the second brings the cases (vdb). */
  disks: string[];
  /** The file that gets what the kernel and systemd print. */
  console: string;
  processors: number;
  /** It is killed when nothing came through the port for this long. */
  silenceMs: number;
  /** A line that the guest wrote to /dev/virtio-ports/results. */
  onLine: (line: string) => void;
}

/** How it ended: powered off, to be booted again, or the reason why it was killed or fell over. */
export type Ending = "off" | "boot" | { problem: string };

const qemu = [
  // Whoever ends the tests ends the machines too.
  ...["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"],
  // "max" with the last two panics Linux 6.12 under qemu 7.2; KVM, where it is there, is not relied on.
  ...["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off", "-m", "4096"],
  ...["-display", "none", "-monitor", "none", "-no-reboot"],
  ...["-nic", "user,model=virtio-net-pci,restrict=on"],
  ...["-chardev", "stdio,id=results,signal=off", "-device", "virtio-serial"],
  ...["-device", "virtserialport,chardev=results,name=results"],
];

/** Boots it and waits for its end. The lines "::boot" and "::cut" ask for another boot, after a reset. */
export async function runMachine(options: MachineOptions): Promise<Ending> {
  const child = Bun.spawn(
    [
      ...qemu,
      ...["-smp", `${options.processors}`],
      ...["-serial", `file:${options.console}`],
      ...["-kernel", options.kernel, "-initrd", options.initrd],
      ...["-append", "console=ttyS0 root=/dev/vda rw panic=-1 net.ifnames=0 quiet"],
      ...options.disks.flatMap((file) => [
        "-drive",
        `file=${file},if=virtio,format=raw,cache=unsafe`,
      ]),
    ],
    { stdio: ["pipe", "pipe", "pipe"] },
  );
  let ending: Ending = "off";
  const kill = () => {
    const minutes = options.silenceMs / 60_000;
    ending = { problem: `the machine printed nothing for ${minutes} minutes and was ended` };
    child.kill("SIGKILL");
  };
  let watchdog = setTimeout(kill, options.silenceMs);
  const messages = new Response(child.stderr).text();
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of child.stdout) {
    clearTimeout(watchdog);
    watchdog = setTimeout(kill, options.silenceMs);
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      options.onLine(line);
      if (/^::(boot|cut)/.test(line)) ending = "boot";
      if (line.startsWith("::cut")) child.kill("SIGKILL");
    }
  }
  clearTimeout(watchdog);
  const status = await child.exited;
  if (ending === "off" && status !== 0) {
    return { problem: `qemu ended with ${status}: ${await messages}` };
  }
  return ending;
}
