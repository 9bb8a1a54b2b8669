/** The virtual machine. Software emulation: it needs nothing of the host, and is some 10 times slower. */

export interface MachineOptions {
  kernel: string;
  initrd: string;
  /** Raw images: the first is the root file system (vda), the second brings the cases (vdb). */
  disks: string[];
  /** The file that gets what the kernel and systemd print. */
  console: string;
  /** It is killed when nothing came through the port for this long. */
  silenceMs: number;
  /** A line that the guest wrote to /dev/virtio-ports/results. */
  onLine: (line: string) => void;
}

const qemu = [
  "qemu-system-x86_64",
  // "max" with the last two panics Linux 6.12 under qemu 7.2; KVM, where it is there, is not relied on.
  ...["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off", "-smp", "2", "-m", "4096"],
  ...["-display", "none", "-monitor", "none", "-no-reboot"],
  ...["-nic", "user,model=virtio-net-pci,restrict=on"],
  ...["-chardev", "stdio,id=results,signal=off", "-device", "virtio-serial"],
  ...["-device", "virtserialport,chardev=results,name=results"],
];

/** Boots it and returns when it has powered off; a reason when it had to be killed or fell over. */
export async function runMachine(options: MachineOptions): Promise<string | undefined> {
  const child = Bun.spawn(
    [
      ...qemu,
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
  let reason: string | undefined;
  const kill = () => {
    reason = `the machine printed nothing for ${options.silenceMs / 60_000} minutes and was ended`;
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
    for (const line of lines) options.onLine(line);
  }
  clearTimeout(watchdog);
  const status = await child.exited;
  if (reason === undefined && status !== 0) reason = `qemu ended with ${status}: ${await messages}`;
  return reason;
}
