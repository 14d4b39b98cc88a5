// Reads what a JPEG says of itself: XMP and Content Credentials (C2PA). Nothing is sent anywhere.
// It does not verify: neither signature nor hashes are looked at, and the page says so.
"use strict";

const form = document.getElementById("verify-picture");
const drop = document.getElementById("drop");
const input = document.getElementById("file");
const verdict = document.getElementById("verdict");

const MAX_BYTES = 64 * 1024 * 1024;
const MAX_DEPTH = 24;
const XMP = "http://ns.adobe.com/xap/1.0/\0";
const IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const PLUS = "http://ns.useplus.org/ldf/xmp/1.0/";
const RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/";
const SOURCES = {
  trainedAlgorithmicMedia: "Created using generative AI",
  compositeWithTrainedAlgorithmicMedia: "Edited using generative AI",
  compositeSynthetic: "A composite that includes elements made by generative AI",
  composite: "A composite of several elements",
  algorithmicMedia: "Made by an algorithm without training data",
  digitalCapture: "Taken by a camera",
};
const USES = {
  ai_generative_training: "Training of generative AI",
  ai_training: "Training of other AI",
  ai_inference: "Use as input of an AI",
  data_mining: "Data mining",
};
const PERMISSIONS = { notAllowed: "not allowed", allowed: "allowed", constrained: "under conditions" };

class Unreadable extends Error {}

const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const utf8 = (bytes) => new TextDecoder().decode(bytes);
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// --- the file: ITU-T T.81, annex B -------------------------------------------------------------------------

function* segmentsOf(jpeg) {
  if (jpeg[0] !== 0xff || jpeg[1] !== 0xd8) throw new Unreadable("This is no JPEG.");
  let at = 2;
  while (at + 4 <= jpeg.length && jpeg[at] === 0xff && jpeg[at + 1] !== 0xda && jpeg[at + 1] !== 0xd9) {
    const end = at + 2 + jpeg[at + 2] * 256 + jpeg[at + 3];
    if (end > jpeg.length) throw new Unreadable("The file ends too early.");
    yield { marker: jpeg[at + 1], body: jpeg.subarray(at + 4, end) };
    at = end;
  }
}

// APP11 carries one box in numbered pieces, each of which repeats the box's head (ISO/IEC 19566-5, annex D).
function boxesIn(segments) {
  const pieces = new Map();
  for (const { marker, body } of segments) {
    if (marker !== 0xeb || body.length < 16 || latin1(body.subarray(0, 2)) !== "JP") continue;
    const view = viewOf(body);
    const box = view.getUint16(2);
    const head = view.getUint32(8) === 1 ? 16 : 8;
    pieces.set(box, [...(pieces.get(box) ?? []), { order: view.getUint32(4), bytes: body.subarray(8), head }]);
  }
  return Array.from(pieces.values(), (parts) => {
    parts.sort((one, other) => one.order - other.order);
    return joined(parts.map(({ bytes, head }, index) => (index ? bytes.subarray(head) : bytes)));
  });
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// --- JUMBF: ISO/IEC 19566-5 --------------------------------------------------------------------------------

function* childrenOf(bytes) {
  for (let at = 0; at + 8 <= bytes.length; ) {
    const view = viewOf(bytes.subarray(at));
    const isLong = view.getUint32(0) === 1;
    if (isLong && bytes.length - at < 16) throw new Unreadable("The statement is damaged.");
    const size = (isLong ? Number(view.getBigUint64(8)) : view.getUint32(0)) || bytes.length - at;
    const head = isLong ? 16 : 8;
    if (size < head || at + size > bytes.length) throw new Unreadable("The statement is damaged.");
    yield { type: latin1(bytes.subarray(at + 4, at + 8)), body: bytes.subarray(at + head, at + size) };
    at += size;
  }
}

function superbox(body, depth = 0) {
  if (depth > MAX_DEPTH) throw new Unreadable("The statement is nested too deeply.");
  const children = Array.from(childrenOf(body));
  if (children[0]?.type !== "jumd") throw new Unreadable("The statement is damaged.");
  const description = children[0].body;
  const hasLabel = (description[16] & 2) !== 0;
  const end = description.indexOf(0, 17);
  return {
    label: hasLabel ? utf8(description.subarray(17, end < 0 ? undefined : end)) : "",
    boxes: children.filter(({ type }) => type === "jumb").map((child) => superbox(child.body, depth + 1)),
    data: children.find(({ type }) => type === "cbor" || type === "json"),
  };
}

function contentOf(box) {
  if (!box?.data) return {};
  const { type, body } = box.data;
  try {
    return (type === "cbor" ? decodeCbor(body) : JSON.parse(utf8(body))) ?? {};
  } catch (error) {
    throw error instanceof Unreadable ? error : new Unreadable("The statement is damaged.");
  }
}

// --- CBOR: RFC 8949 ----------------------------------------------------------------------------------------

function decodeCbor(bytes) {
  const view = viewOf(bytes);
  let at = 0;
  const take = (count) => {
    if (at + count > bytes.length) throw new Unreadable("The statement is damaged.");
    at += count;
    return at - count;
  };
  const number = (size) => {
    const start = take(size);
    if (size === 8) return Number(view.getBigUint64(start));
    return size === 4 ? view.getUint32(start) : size === 2 ? view.getUint16(start) : view.getUint8(start);
  };
  const isBreak = () => bytes[at] === 0xff && take(1) >= 0;
  // Each item read takes a byte at least, so a length that is a lie ends at the end of the bytes.
  const many = (length, read) => {
    const items = [];
    while (length === null ? !isBreak() : items.length < length) items.push(read());
    return items;
  };
  const float = (size) => {
    const start = take(size);
    return size === 8 ? view.getFloat64(start) : size === 4 ? view.getFloat32(start) : NaN;
  };
  const item = (depth) => {
    if (depth > MAX_DEPTH) throw new Unreadable("The statement is nested too deeply.");
    const first = bytes[take(1)];
    const [major, info] = [first >> 5, first & 31];
    if (major === 7 && info >= 25 && info <= 27) return float(2 ** (info - 24));
    if (info > 27 && info < 31) throw new Unreadable("The statement is damaged.");
    const length = info < 24 ? info : info === 31 ? null : number(2 ** (info - 24));
    const next = () => item(depth + 1);
    const raw = () => (length === null ? joined(many(null, next)) : bytes.slice(take(length), at));
    switch (major) {
      case 0: return length;
      case 1: return -1 - length;
      case 2: return raw();
      case 3: return length === null ? many(null, next).join("") : utf8(raw());
      case 4: return many(length, next);
      case 5: return Object.fromEntries(many(length, () => [String(next()), next()]));
      case 6: return next(); // a tag says what its value is for; the value is all that is shown
      default: return { 20: false, 21: true }[length] ?? null;
    }
  };
  return item(0);
}

// --- what is said ------------------------------------------------------------------------------------------

function credentialsIn(segments) {
  const store = boxesIn(segments)
    .flatMap((bytes) => Array.from(childrenOf(bytes)))
    .filter(({ type }) => type === "jumb")
    .map(({ body }) => superbox(body))
    .find(({ label }) => label === "c2pa");
  if (!store?.boxes.length) return null;
  const manifest = store.boxes.at(-1); // the last one is the one that speaks for the file (C2PA 2.2, 11.1.4)
  const named = (name) => manifest.boxes.find(({ label }) => label === name || label.startsWith(`${name}.v`));
  const claim = contentOf(named("c2pa.claim"));
  const assertions = named("c2pa.assertions")?.boxes ?? [];
  const of = (name) => assertions.filter(({ label }) => new RegExp(`^${name}(\\.v\\d+)?(__\\d+)?$`).test(label));
  const generator = [claim.claim_generator_info].flat()[0] ?? {};
  return {
    generator: [generator.name ?? claim.claim_generator, generator.version].filter(Boolean).join(" "),
    actions: of("c2pa\\.actions").flatMap((box) => contentOf(box).actions ?? []),
    uses: of("(?:c2pa|cawg)\\.training-mining").flatMap((box) => Object.entries(contentOf(box).entries ?? {})),
    ingredients: of("c2pa\\.ingredient").length,
    thumbnails: assertions.filter(({ label }) => label.startsWith("c2pa.thumbnail")).length,
    isSigned: Boolean(named("c2pa.signature")),
  };
}

function xmpIn(segments) {
  for (const { marker, body } of segments) {
    if (marker !== 0xe1 || latin1(body.subarray(0, XMP.length)) !== XMP) continue;
    const packet = new DOMParser().parseFromString(utf8(body.subarray(XMP.length)).trim(), "application/xml");
    return {
      source: propertyOf(packet, IPTC, "DigitalSourceType"),
      mining: propertyOf(packet, PLUS, "DataMining"),
    };
  }
  return { source: "", mining: "" };
}

function propertyOf(packet, namespace, name) {
  for (const node of packet.getElementsByTagNameNS(RDF, "Description")) {
    if (node.hasAttributeNS(namespace, name)) return node.getAttributeNS(namespace, name);
  }
  const node = packet.getElementsByTagNameNS(namespace, name)[0];
  return node ? node.getAttributeNS(RDF, "resource") ?? node.textContent.trim() : "";
}

function sourceInWords(source) {
  if (!source) return "nothing said";
  const term = String(source).replace(SOURCE, "");
  return Object.hasOwn(SOURCES, term) ? `${SOURCES[term]} (${term})` : String(source);
}

function useInWords([name, entry]) {
  const use = name.replace(/^[^.]*\./, "");
  const said = String(entry?.use ?? entry);
  return [USES[use] ?? name, PERMISSIONS[said] ?? said];
}

function factsOf({ credentials, xmp }) {
  const facts = [];
  if (credentials) {
    facts.push(["Made with", credentials.generator || "not said"]);
    for (const { action, digitalSourceType } of credentials.actions) {
      facts.push(["Action", String(action)], ["How it was made", sourceInWords(digitalSourceType)]);
    }
    facts.push(...credentials.uses.map(useInWords));
    facts.push(["Source pictures named", String(credentials.ingredients)]);
    facts.push(["Thumbnails", String(credentials.thumbnails)]);
    facts.push(["Signature", credentials.isSigned ? "there is one; it was not checked" : "none"]);
  }
  if (xmp.source) facts.push(["XMP: how it was made", sourceInWords(xmp.source)]);
  if (xmp.mining) facts.push(["XMP: data mining", xmp.mining.replace(/^.*\//, "")]);
  return facts;
}

// --- the page ----------------------------------------------------------------------------------------------

function element(tag, words) {
  const made = document.createElement(tag);
  made.textContent = words;
  return made;
}

function tell(kind, heading, words, facts = []) {
  const ledger = document.createElement("dl");
  ledger.className = "said";
  for (const [label, said] of facts) ledger.append(element("dt", label), element("dd", said));
  verdict.className = `verdict ${kind}`;
  verdict.replaceChildren(element("h2", heading), element("p", words), ...(facts.length ? [ledger] : []));
  verdict.hidden = false;
  verdict.focus();
}

function read(jpeg) {
  const segments = Array.from(segmentsOf(jpeg));
  return { credentials: credentialsIn(segments), xmp: xmpIn(segments) };
}

async function showFile(file) {
  try {
    if (file.size > MAX_BYTES) throw new Unreadable("It is larger than 64 MiB.");
    const said = read(new Uint8Array(await file.arrayBuffer()));
    const facts = factsOf(said);
    if (!facts.length) tell("unknown", "This picture says nothing of itself.", "Marks can be removed: that proves nothing.");
    else if (!said.credentials) tell("unknown", "This picture has only an unsigned mark.", "Anybody could have written it:", facts);
    else tell("unknown", "This is what the picture says.", "The signature was not checked here; how to do that is below.", facts);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    tell("bad", "This file could not be read.", error.message);
  }
}

form.hidden = false;
document.getElementById("without-script").hidden = true;
form.addEventListener("submit", (event) => event.preventDefault());
takeFiles(input, drop, (files) => {
  if (files.length) showFile(files[0]);
});
