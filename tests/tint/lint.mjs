// node lint.mjs [--verbose] FOLDER-OR-FILE...
//
// Compiles WGSL texts with Tint, the compiler of Chromium, and makes a pipeline of each on a device that
// grants no more than WebGPU promises. No GPU and no driver is needed: Dawn's null back end has all of it
// but the running. Prints errors and warnings; exit status 1 if there was an error.

import fs from "node:fs";
import path from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);

const options = process.argv.slice(2);
const verbose = options.includes("--verbose");
const files = options.filter((option) => !option.startsWith("--")).flatMap(wgslFiles);
if (files.length === 0) {
  console.error("usage: node lint.mjs [--verbose] FOLDER-OR-FILE...");
  process.exit(2);
}

const gpu = create(["backend=null"]);
// Two devices: a text without subgroup operations must need no feature at all.
const plain = await device([]);
const withSubgroups = await device(["subgroups"]);

await testTheLinter();

let nErrors = 0;
for (const file of files) {
  const messages = await lint(fs.readFileSync(file, "utf8"));
  for (const { type, text } of messages) console.log(`${file}: ${type}: ${text}`);
  if (messages.some(({ type }) => type === "error")) nErrors += 1;
  else if (verbose) console.log(`${file}: ok`);
}
console.log(`Tint: ${files.length - nErrors} of ${files.length} texts are fine`);
process.exit(nErrors === 0 ? 0 : 1);

function wgslFiles(place) {
  if (!fs.statSync(place).isDirectory()) return [place];
  const names = fs.readdirSync(place).filter((name) => name.endsWith(".wgsl"));
  return names.sort().map((name) => path.join(place, name));
}

async function device(requiredFeatures) {
  const adapter = await gpu.requestAdapter();
  return adapter.requestDevice({ requiredFeatures });
}

/** Errors and warnings of a text. */
async function lint(text) {
  // naga, which the engine compiles with, refuses the `enable` line that the standard asks for.
  const usesSubgroups = /\bsubgroup[A-Z]\w*\s*\(|@builtin\((subgroup_\w+|num_subgroups)\)/.test(text);
  const code = usesSubgroups ? `enable subgroups;${text}` : text;
  const on = usesSubgroups ? withSubgroups : plain;
  on.pushErrorScope("validation");
  const module = on.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const found = messages.map(({ type, lineNum, linePos, message }) => {
    const line = text.split("\n")[lineNum - 1]?.trim() ?? "";
    return { type, text: `line ${lineNum}:${linePos}: ${message}\n    ${line}` };
  });
  // A module that is broken says nothing new as a pipeline.
  const broken = found.some(({ type }) => type === "error");
  if (!broken) on.createComputePipeline({ layout: "auto", compute: { module } });
  const refusal = await on.popErrorScope();
  if (refusal && !broken) found.push({ type: "error", text: refusal.message });
  return found;
}

/** A linter that finds nothing proves nothing. */
async function testTheLinter() {
  const kernel = (globals, body, lanes = 64) => `
    @group(0) @binding(0) var<storage, read_write> x: array<f32>;
    ${globals}
    @compute @workgroup_size(${lanes})
    fn kernel(@builtin(local_invocation_index) lane: u32) { ${body} }`;
  const sum = "x[lane] = subgroupAdd(x[lane]);";
  const inIf = "if x[0] > 0.0 { workgroupBarrier(); }";
  const cases = [
    [true, kernel("", "x[lane] += 1.0;")],
    [true, kernel("", sum)],
    [false, kernel("", inIf)],
    [false, kernel("", `if lane > 3u { ${sum} }`)],
    [false, kernel("", "x[lane] += 1.0", 64)],
    [false, kernel("", "x[lane] += 1.0;", 512)],
    [false, kernel("var<workgroup> w: array<f32, 5000>;", "x[lane] += w[lane];")],
  ];
  for (const [fine, text] of cases) {
    const messages = await lint(text);
    if (fine === messages.some(({ type }) => type === "error")) {
      console.error(`the linter is wrong about this text:${text}`, messages);
      process.exit(2);
    }
  }
}
