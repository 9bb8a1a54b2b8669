/** Exec, attach, port-forward and `kubectl cp` through a kubelet, with kubectl's client on both wires. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostDirectory, Kubelet, kubeletAddress, shell, stay } from "./kubelet.ts";
import { cleaned, nginx, sh, until } from "./node.ts";

let kubelet: Kubelet;

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

beforeAll(async () => {
  kubelet = await Kubelet.start();
  const path = hostDirectory("streams");
  writeFileSync(`${path}/blob`, randomBytes(2_000_000));
  kubelet.apply("streams", {
    volumes: [{ name: "v", hostPath: { path } }],
    containers: [
      shell(stay, {
        env: [{ name: "GREETING", value: "hello" }],
        securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
      }),
      shell('while read -r line; do echo "got $line"; done; echo over; sleep 100000', {
        name: "reads",
        stdin: true,
      }),
      {
        name: "web",
        image: nginx,
        volumeMounts: [{ name: "v", mountPath: "/srv/www/v" }],
      },
    ],
  });
  await kubelet.ready("streams");
});

afterAll(async () => {
  await kubelet.stop();
});

for (const transport of ["spdy", "websocket"]) {
  describe(transport, () => {
    /** kubectl's client: see test/streaming/client/main.go. */
    function client(verb: string, path: string, query: [string, string][], ...flags: string[]) {
      const url = `${kubeletAddress}/${path}?${new URLSearchParams(query)}`;
      return Bun.spawn(["streaming-client", verb, "-url", url, "-transport", transport, ...flags], {
        stdio: ["pipe", "pipe", "pipe"],
      });
    }

    /** Which streams a command has: those of the URL and of the client have to be the same. */
    interface Streams {
      input?: Uint8Array;
      flags?: string[];
      tty?: boolean;
    }

    /** Runs a command in the pod to its end. */
    async function exec(command: string[], { input, flags = [], tty = false }: Streams = {}) {
      const on = (stream: string): [string, string] => [stream, "1"];
      const query: [string, string][] = [
        ...command.map((word): [string, string] => ["command", word]),
        on("output"),
        on(tty ? "tty" : "error"),
        ...(input === undefined ? [] : [on("input")]),
      ];
      const child = client(
        "command",
        "exec/default/streams-node/main",
        query,
        ...["-stdout", tty ? "-tty" : "-stderr", ...(input === undefined ? [] : ["-stdin"])],
        ...flags,
      );
      child.stdin.write(input ?? "");
      // Nobody who sits at a terminal ends its input.
      if (!tty) child.stdin.end();
      const [stdout, stderr, exitCode] = await Promise.all([
        new Response(child.stdout).bytes(),
        new Response(child.stderr).text(),
        child.exited,
      ]);
      return { stdout: Buffer.from(stdout), stderr, exitCode };
    }

    test("exec: output, errors and the exit code", async () => {
      const ran = await exec(["sh", "-c", "echo out; echo err >&2; exit 7"]);
      expect(ran).toMatchObject({ exitCode: 7, stdout: Buffer.from("out\n") });
      expect(ran.stderr).toStartWith("err\n");
      expect(await exec(["true"])).toMatchObject({ exitCode: 0, stderr: "" });
    });

    test("exec: a command that is not there fails by its name", async () => {
      const { exitCode, stderr } = await exec(["/no/such/program"]);
      expect(exitCode).not.toBe(0);
      expect(stderr).toContain("/no/such/program");
    });

    test("exec: what restricts the container restricts the command, with a terminal and without", async () => {
      const show = (pid: string) =>
        `grep -E '^(Uid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/${pid}/status`;
      const own = await exec(["sh", "-c", show("1")]);
      expect(own.stdout.toString()).toContain("NoNewPrivs:\t1");
      for (const tty of [false, true]) {
        const { stdout } = await exec(["sh", "-c", show("self")], { tty });
        expect(stdout.toString().replaceAll("\r", "")).toBe(own.stdout.toString());
      }
    });

    test("exec: input goes in and comes out as it was", async () => {
      const input = randomBytes(1_000_000);
      const { exitCode, stdout } = await exec(["cat"], { input });
      expect([exitCode, hashOf(stdout)]).toEqual([0, hashOf(input)]);
    });

    test("exec: a terminal of the client's size", async () => {
      const script =
        "until stty size 2>/dev/null | grep -q '^33 111'; do sleep 0.1; done; tty; echo $GREETING $TERM; exit 3";
      const { exitCode, stdout } = await exec(["sh", "-c", script], {
        tty: true,
        input: Buffer.of(),
        flags: ["-size", "111x33"],
      });
      expect([exitCode, stdout.toString()]).toEqual([3, "/dev/pts/0\r\nhello xterm\r\n"]);
    });

    test("kubectl cp: a tree goes there and comes back whole", async () => {
      const there = `/var/tmp/cp/${transport}/there`;
      const back = `/var/tmp/cp/${transport}/back`;
      mkdirSync(`${there}/tree/deep/er`, { recursive: true });
      mkdirSync(back, { recursive: true });
      for (const name of ["a", "deep/b", "deep/er/c"]) {
        writeFileSync(`${there}/tree/${name}`, randomBytes(300_000));
      }
      writeFileSync(`${there}/tree/empty`, "");
      sh("tar", "cf", `${there}.tar`, "-C", there, "tree");
      const target = `/tmp/${transport}`;
      const input = readFileSync(`${there}.tar`);
      const script = `mkdir ${target} && exec tar xmf - -C ${target}`;
      expect(await exec(["sh", "-c", script], { input })).toMatchObject({ exitCode: 0 });
      const inside = await exec(["sh", "-c", `cd ${target}/tree && sha256sum deep/er/c`]);
      expect(inside.stdout.toString().split(" ")[0]).toBe(
        hashOf(readFileSync(`${there}/tree/deep/er/c`)),
      );
      const { exitCode, stdout } = await exec(["tar", "cf", "-", "-C", target, "tree"]);
      expect(exitCode).toBe(0);
      writeFileSync(`${back}.tar`, stdout);
      sh("tar", "xf", `${back}.tar`, "-C", back);
      sh("diff", "-r", there, back);
    });

    test("attach: the container reads what the client writes, and outlives it", async () => {
      const child = client(
        "command",
        "attach/default/streams-node/reads",
        [
          ["input", "1"],
          ["output", "1"],
          ["error", "1"],
        ],
        ...["-stdin", "-stdout", "-stderr"],
      );
      child.stdin.write(`hello ${transport}\n`);
      child.stdin.flush();
      let text = "";
      for await (const chunk of child.stdout) {
        text += Buffer.from(chunk).toString();
        if (text.includes("\n")) child.stdin.end();
      }
      expect([await child.exited, text]).toEqual([0, `got hello ${transport}\n`]);
      const status = await kubelet.ready("streams");
      expect(status.containerStatuses?.map((it) => it.restartCount)).toEqual([0, 0, 0]);
      expect(await kubelet.logs("streams", "", "reads")).toContain(`got hello ${transport}\n`);
    });

    test("port-forward: connections one after the other and at once, each with its data", async () => {
      const child = client("forward", "portForward/default/streams-node", [], "-port", "80");
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      const address = Buffer.from(value ?? [])
        .toString()
        .trim();
      const get = async (path: string) => (await fetch(`http://${address}/${path}`)).bytes();
      expect(Buffer.from(await get("")).toString()).toBe("hello\n");
      const blob = hashOf(readFileSync(`${hostDirectory("streams")}/blob`));
      const all = await Promise.all(Array.from({ length: 5 }, () => get("v/blob")));
      expect(all.map(hashOf)).toEqual(Array.from({ length: 5 }, () => blob));
      child.stdin.end();
      expect(await child.exited).toBe(0);
    });
  });
}

test("exec works again after a kill -9 of the daemon", async () => {
  await kubelet.crib.kill();
  const url = `${kubeletAddress}/exec/default/streams-node/main?command=echo&command=again&output=1`;
  // The kubelet needs a moment to connect again.
  await until("an exec that works", () => {
    const { stdout, exitCode } = Bun.spawnSync([
      "streaming-client",
      "command",
      "-url",
      url,
      "-stdout",
    ]);
    return exitCode === 0 && stdout.toString() === "again\n";
  });
});

test("nothing is left when all pods are gone", async () => {
  await kubelet.stop();
  expect(await cleaned()).toEqual([]);
});
