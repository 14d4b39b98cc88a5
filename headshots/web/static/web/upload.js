// Comfort for the upload form: dropping, a thumbnail, and early word on what the server would refuse anyway.
"use strict";

const MAX_BYTES = 25 * 1024 * 1024;
const form = document.getElementById("upload");
const input = document.getElementById("selfie");
const drop = document.getElementById("drop");
const label = document.getElementById("drop-label");
const thumbnail = document.getElementById("thumbnail");
const problem = document.getElementById("local-problem");
const send = document.getElementById("send");
const sending = document.getElementById("sending");

for (const element of document.querySelectorAll(".with-script")) element.hidden = false;

function tell(message, advice) {
  const heading = document.createElement("h2");
  const words = document.createElement("p");
  heading.textContent = message;
  words.textContent = advice;
  problem.replaceChildren(heading, words);
  problem.hidden = false;
}

function show() {
  URL.revokeObjectURL(thumbnail.src);
  thumbnail.hidden = true;
  problem.hidden = true;
  const file = input.files[0];
  label.textContent = file ? "This photo will be sent" : "Choose a photo of yourself";
  if (!file) return;
  if (file.size > MAX_BYTES) {
    tell("The photo is larger than 25 MB.", "Send a smaller copy, for example as JPEG.");
    input.value = "";
    label.textContent = "Choose a photo of yourself";
    return;
  }
  thumbnail.onload = () => { thumbnail.hidden = false; };
  thumbnail.src = URL.createObjectURL(file); // what the browser cannot show is still sent: the server decides
}

takeFiles(input, drop, (files) => {
  if (files.length > 1) {
    tell("That was more than one file.", "Drop one photo that shows only you.");
    return;
  }
  input.files = files;
  show();
});

form.addEventListener("submit", () => {
  send.disabled = true; // a second click would be a second order for the same upload
  sending.textContent = "Sending your photo …";
});
window.addEventListener("pageshow", () => {
  send.disabled = false;
  sending.textContent = "";
  show();
});
