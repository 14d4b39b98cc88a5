// What the pages that take a file share: choosing, dropping, and not losing the page to a drop that missed.
"use strict";

/** Calls `take` with the FileList that was chosen in `input` or dropped on `drop`; empty when a choice was taken back. */
function takeFiles(input, drop, take) {
  input.addEventListener("change", () => take(input.files));
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
  // A file that misses the drop zone would replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
}
