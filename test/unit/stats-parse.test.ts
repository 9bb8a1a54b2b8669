import { describe, expect, test } from "bun:test";
import {
  parseCount,
  parseKeyed,
  parseLimit,
  parseNetDev,
  parsePsi,
} from "../../src/stats/parse.ts";

describe("numbers", () => {
  test("64 bits are kept", () => {
    expect(parseCount("18446744073709551615\n")).toBe(18446744073709551615n);
  });

  test.each([undefined, "", "max", "-1", "1 2", "0x10", "1.5"])("%j is no count", (text) => {
    expect(parseCount(text)).toBeUndefined();
  });

  test("no limit is v2's max, v1's huge number on any page size, or a missing file", () => {
    expect(parseLimit("max\n")).toBeUndefined();
    expect(parseLimit("9223372036854771712\n")).toBeUndefined();
    expect(parseLimit("9223372036854710272\n")).toBeUndefined();
    expect(parseLimit(undefined)).toBeUndefined();
    expect(parseLimit("0")).toBe(0n);
    expect(parseLimit("268435456\n")).toBe(268435456n);
  });

  test("lines that are not a name and a number are skipped", () => {
    const values = parseKeyed("anon 4096\n\nodd\nx y\nfile 1 2\nslab 7\n 5\n");
    expect(Object.fromEntries(values)).toEqual({ anon: 4096n, slab: 7n });
    expect(parseKeyed(undefined).size).toBe(0);
  });
});

describe("parsePsi", () => {
  test("percentages as they are, the kernel's microseconds as nanoseconds", () => {
    expect(
      parsePsi(
        "some avg10=0.04 avg60=1.70 avg300=8.90 total=81049530\n" +
          "full avg10=0.00 avg60=0.00 avg300=100.00 total=1\n",
      ),
    ).toEqual({
      some: { avg10: 0.04, avg60: 1.7, avg300: 8.9, totalNanoSeconds: 81049530000n },
      full: { avg10: 0, avg60: 0, avg300: 100, totalNanoSeconds: 1000n },
    });
  });

  test("old kernels have no full line for the CPU", () => {
    const psi = parsePsi("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
    expect(psi?.some).toBeDefined();
    expect(psi?.full).toBeUndefined();
  });

  test.each([undefined, "", "some avg10=x\n"])("%j has no pressure figures", (text) => {
    expect(parsePsi(text)).toBeUndefined();
  });
});

describe("parseNetDev", () => {
  const header =
    "Inter-|   Receive                                                |  Transmit\n" +
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

  test("interfaces with their bytes and errors, without the loopback", () => {
    const text =
      `${header}    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n` +
      "  eth0: 671098840   21092    3    0    0     0          0         0  1458762   14081    4    0    0     0       0          0\n";
    expect(parseNetDev(text)).toEqual([
      { name: "eth0", rxBytes: 671098840n, rxErrors: 3n, txBytes: 1458762n, txErrors: 4n },
    ]);
  });

  test("large counters that touch the name, and names with a colon", () => {
    const text = `${header}eth0:1:18446744073709551615 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n`;
    expect(parseNetDev(text)).toEqual([
      {
        name: "eth0:1",
        rxBytes: 18446744073709551615n,
        rxErrors: 0n,
        txBytes: 5n,
        txErrors: 0n,
      },
    ]);
  });

  test("an empty namespace and a short line give nothing", () => {
    expect(parseNetDev(header)).toEqual([]);
    expect(parseNetDev("eth0: 1 2 3\n")).toEqual([]);
  });
});
