// Compiles src/ValuationHub.sol and writes the one copy of its ABI and bytecode, where the Python
// package carries it. `node compile.mjs --stdout` prints it instead: the test compares the two.
// `--fake` takes the loan router that tests deploy, and writes beside its source.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import solc from "solc";

const FAKE = process.argv.includes("--fake");
const NAME = FAKE ? "LoanRouterFake" : "ValuationHub";
const SOURCE = `${NAME}.sol`;
const FROM = FAKE ? "../tests/fakes" : "src";
const TO = FAKE ? "../tests/fakes" : "../valuer/assay_valuer/oracle";
const OUT = fileURLToPath(new URL(`${TO}/${NAME}.json`, import.meta.url));

const text = readFileSync(new URL(`${FROM}/${SOURCE}`, import.meta.url), "utf8");
const settings = {
  optimizer: { enabled: true, runs: 10000 },
  viaIR: true,
  evmVersion: "cancun",
  // The bytecode then depends on the code alone, not on comments or paths.
  metadata: { bytecodeHash: "none", appendCBOR: false },
};
const input = {
  language: "Solidity",
  sources: { [SOURCE]: { content: text } },
  settings: {
    ...settings,
    outputSelection: {
      [SOURCE]: { [NAME]: ["abi", "evm.bytecode.object", "evm.deployedBytecode"] },
    },
  },
};

const output = JSON.parse(solc.compile(JSON.stringify(input)));
const messages = output.errors ?? [];
for (const message of messages) console.error(message.formattedMessage);
// A warning stops the build too: none is expected, so each is worth reading.
if (messages.length > 0) process.exit(1);

const contract = output.contracts[SOURCE][NAME];
const artefact = {
  contract: NAME,
  compiler: solc.version(),
  settings,
  sourceSha256: createHash("sha256").update(text).digest("hex"),
  abi: contract.abi,
  bytecode: `0x${contract.evm.bytecode.object}`,
  // Byte ranges of the deployed code that the constructor fills in.
  immutableRanges: Object.values(contract.evm.deployedBytecode.immutableReferences)
    .flat()
    .sort((a, b) => a.start - b.start),
  deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
};
const json = `${JSON.stringify(artefact, null, 1)}\n`;
if (process.argv.includes("--stdout")) process.stdout.write(json);
else writeFileSync(OUT, json);
