/** In the virtual machine: what systemd is asked over D-Bus. */
import * as v from "valibot";
import { until } from "./node.ts";

const Message = v.object({
  type: v.string(),
  member: v.optional(v.string(), ""),
  payload: v.optional(v.object({ data: v.optional(v.unknown()) })),
});

/** The methods of systemd that somebody calls over the system bus while `work` runs. */
export async function callsOfSystemd(work: () => Promise<unknown>): Promise<string[]> {
  const monitor = Bun.spawn(["busctl", "monitor", "--json=short", "org.freedesktop.systemd1"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let text = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of monitor.stdout) text += decoder.decode(chunk, { stream: true });
  })();
  const calls = () =>
    text
      .split("\n")
      .slice(0, -1)
      .map((line) => v.parse(Message, JSON.parse(line)))
      .filter(({ type }) => type === "method_call");
  const isMark = (name: string) => (message: v.InferOutput<typeof Message>) =>
    JSON.stringify(message.payload?.data) === JSON.stringify([name]);
  /** Asks for a unit of that name, until the monitor has seen it: messages keep their order. */
  const mark = (name: string) =>
    until(`${name} on the bus`, () => {
      const manager = "org.freedesktop.systemd1.Manager";
      const object = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1"];
      const call = ["busctl", "call", ...object, manager, "GetUnit", "s", name];
      Bun.spawnSync(call, { stdio: ["ignore", "ignore", "ignore"] });
      return calls().some(isMark(name));
    });
  try {
    await mark("begin.service");
    await work();
    await mark("end.service");
  } finally {
    monitor.kill();
    await reading;
  }
  const all = calls();
  const begin = all.findLastIndex(isMark("begin.service"));
  return all.slice(begin + 1, all.findIndex(isMark("end.service"))).map(({ member }) => member);
}
