// Solves an ALTCHA challenge (version 2, PBKDF2): counts up until a derived key begins as the challenge says.
"use strict";

const REPORT_EVERY = 16;
const bytes = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
const hex = (array) => Array.from(array, (byte) => byte.toString(16).padStart(2, "0")).join("");

async function solve({ nonce, salt, cost, keyLength, keyPrefix }) {
  const start = bytes(nonce);
  const password = new Uint8Array(start.length + 4);
  const count = new DataView(password.buffer, start.length);
  const how = { name: "PBKDF2", hash: "SHA-256", salt: bytes(salt), iterations: cost };
  password.set(start);
  for (let counter = 0; ; counter += 1) {
    count.setUint32(0, counter);
    const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
    const derivedKey = hex(new Uint8Array(await crypto.subtle.deriveBits(how, key, keyLength * 8)));
    if (derivedKey.startsWith(keyPrefix)) return { counter, derivedKey };
    if (counter % REPORT_EVERY === 0) postMessage({ counter });
  }
}

onmessage = async ({ data }) => {
  try {
    postMessage({ solution: await solve(data) });
  } catch (error) {
    postMessage({ error: error.name });
  }
};
