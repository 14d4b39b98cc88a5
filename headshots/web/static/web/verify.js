// Checks a deletion receipt in the browser: a C2SP signed note under Ed25519. Nothing is sent anywhere.
"use strict";

const form = document.getElementById("verify");
const drop = document.getElementById("drop");
const input = document.getElementById("file");
const text = document.getElementById("text");
const keys = document.getElementById("keys");
const verdict = document.getElementById("verdict");

const MAX_NOTE_CHARACTERS = 64 * 1024;
const MAX_SIGNATURES = 16;
const TIME = "(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ)";
const COUNT = "(0|[1-9]\\d*)";
const HASH = "([0-9a-f]{64})";
const QUARTER = "[0-9A-HJKMNP-TV-Z]{4}";
// The receipt's only form, line by line, and what each line says; $1 and so on are its parts.
const LINES = [
  ["([!-.0-~]+)/deletion-receipt@v1", "Stated by", "$1"],
  [`receipt (${QUARTER}(?:-${QUARTER}){3})`, "Receipt number", "$1"],
  [`first-photo ${TIME}`, "First photo arrived", "$1"],
  [`selfie-key-destroyed ${TIME}`, "Key of the photos destroyed", "$1"],
  [`result-key-destroyed ${TIME}`, "Key of the headshots destroyed", "$1"],
  [`objects-deleted ${TIME}`, "Files deleted", "$1"],
  [`absent-verified ${TIME}`, "First look: nothing left", "$1"],
  [`absent-verified ${TIME}`, "Second look: nothing left", "$1"],
  [`epoch-key-gone-by ${TIME}`, "Key over all copies destroyed by", "$1"],
  ["reason ([a-z]+(?:-[a-z]+)*)", "Reason", "$1"],
  [
    `deleted selfies=${COUNT} headshots=${COUNT} previews=${COUNT} versions=${COUNT} uploads=${COUNT}`,
    "Deleted", "photos $1, headshots $2, previews $3, older versions $4, unfinished uploads $5",
  ],
  [`ciphertexts sha256:${HASH}`, "Fingerprint of the files", "$1"],
  [`audit ([1-9]\\d*) sha256:${HASH}`, "Audit log", "entry $1"],
];

class NotGenuine extends Error {}
class BadKey extends Error {}
class Unsupported extends Error {}

function bytesOf(encoded) {
  let binary;
  try {
    binary = atob(encoded);
  } catch {
    throw new NotGenuine("A part of it is damaged.");
  }
  // Bits that mean nothing must be zero, or one signature could be written in several ways.
  if (btoa(binary) !== encoded) throw new NotGenuine("A part of it is damaged.");
  return Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

async function parseKey(line) {
  const [, name, id, encoded] = /^([^+\s]+)\+([0-9a-f]{8})\+(.+)$/.exec(line) ?? [];
  if (!name) throw new BadKey();
  const typed = bytesOf(encoded);
  if (typed.length !== 33 || typed[0] !== 1) throw new BadKey();
  const named = new Uint8Array([...new TextEncoder().encode(`${name}\n`), ...typed]);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", named));
  if (hex(hash.slice(0, 4)) !== id) throw new BadKey();
  try {
    return { name, id, key: await crypto.subtle.importKey("raw", typed.slice(1), { name: "Ed25519" }, false, ["verify"]) };
  } catch (error) {
    throw error.name === "NotSupportedError" ? new Unsupported() : new BadKey();
  }
}

async function parseKeys() {
  if (!globalThis.crypto?.subtle) throw new Unsupported(); // also missing on pages that came without https
  const lines = keys.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!lines.length) throw new BadKey();
  try {
    return await Promise.all(lines.map(parseKey));
  } catch (error) {
    throw error instanceof NotGenuine ? new BadKey() : error;
  }
}

function parseNote(note) {
  if (note.length > MAX_NOTE_CHARACTERS) throw new NotGenuine("It is far too long.");
  const end = note.lastIndexOf("\n\n");
  if (end < 0 || !note.endsWith("\n") || /[\x00-\x09\x0b-\x1f]/.test(note)) {
    throw new NotGenuine("This is not a signed receipt. It must be the whole text, signature and all.");
  }
  const lines = note.slice(end + 2, -1).split("\n");
  if (lines.length > MAX_SIGNATURES) throw new NotGenuine("It has too many signatures.");
  const signatures = lines.map((line) => {
    const [, name, encoded] = /^— ([^+\s]+) (\S+)$/.exec(line) ?? [];
    const bytes = name ? bytesOf(encoded) : [];
    if (bytes.length < 5) throw new NotGenuine("Its signature line is damaged.");
    return { name, id: hex(bytes.slice(0, 4)), signature: bytes.slice(4) };
  });
  return { text: note.slice(0, end + 1), signatures };
}

function factsOf(receipt) {
  const lines = receipt.slice(0, -1).split("\n");
  const matches = LINES.map(([form], index) => new RegExp(`^${form}$`).exec(lines[index] ?? ""));
  if (lines.length !== LINES.length || matches.includes(null)) {
    throw new NotGenuine("It is signed, but it is not a deletion receipt.");
  }
  return LINES.map(([, label, words], index) => [
    label,
    words
      .replace(/\$(\d)/g, (_, number) => matches[index][number])
      .replace(/^(\d{4}-\d\d-\d\d)T(.{8})Z$/, "$1 $2 UTC"),
  ]);
}

async function check(note) {
  const known = await parseKeys();
  const parsed = parseNote(note);
  const signedBy = [];
  for (const { name, id, signature } of parsed.signatures) {
    const verifier = known.find((each) => each.name === name && each.id === id);
    if (!verifier) continue; // a signature of somebody we do not know says nothing, for or against
    const data = new TextEncoder().encode(parsed.text);
    if (!(await crypto.subtle.verify({ name: "Ed25519" }, verifier.key, signature, data))) {
      throw new NotGenuine("The signature does not belong to this text: something in it was altered.");
    }
    signedBy.push(name);
  }
  if (!signedBy.length) throw new NotGenuine("None of the keys you trust has signed it.");
  return { signedBy, facts: factsOf(parsed.text) };
}

function element(tag, words) {
  const made = document.createElement(tag);
  made.textContent = words;
  return made;
}

function tell(kind, heading, words, ...more) {
  verdict.className = `verdict ${kind}`;
  verdict.replaceChildren(element("h2", heading), element("p", words), ...more);
  verdict.hidden = false;
  verdict.focus();
}

function ledgerOf(facts) {
  const ledger = document.createElement("dl");
  ledger.className = "said";
  for (const [label, words] of facts) ledger.append(element("dt", label), element("dd", words));
  return ledger;
}

async function show(note) {
  try {
    const { signedBy, facts } = await check(note);
    tell("good", "This receipt is genuine.", `Signed by ${signedBy.join(", ")}. It says:`, ledgerOf(facts));
  } catch (error) {
    if (error instanceof NotGenuine) tell("bad", "This receipt is not genuine.", error.message);
    else if (error instanceof BadKey) tell("bad", "Nothing was checked.", "One of the keys is not a verifier key.");
    else if (error instanceof Unsupported) {
      tell(
        "unknown",
        "Nothing was checked.",
        "This browser cannot check Ed25519 signatures here. Open the page over https in a current browser, " +
          "or use the Python program below.",
      );
    } else throw error;
  }
}

async function showFile(file) {
  let note;
  try {
    // As it is on disk: neither line ends nor a byte order mark may be smoothed over.
    note = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
  } catch {
    tell("bad", "This receipt is not genuine.", "The file is not text.");
    return;
  }
  text.value = note;
  await show(note);
}

form.hidden = false;
document.getElementById("without-script").hidden = true;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  show(`${text.value.trim()}\n`); // copying often leaves an empty line, or the last line's end behind
});
takeFiles(input, drop, (files) => {
  if (files.length) showFile(files[0]);
});
