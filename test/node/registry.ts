/** Prints the directory of the registry with critest's stand-ins; run.ts runs it under test/isolate.sh. */
import { filledRegistry } from "../conformance/registry.ts";

console.log(await filledRegistry());
