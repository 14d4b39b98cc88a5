// Comfort for the order's page: copying the private link, and leaving when the order is gone.
"use strict";

const link = document.getElementById("private-link");
const copy = document.getElementById("copy");

if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(link.value);
    document.getElementById("copied").textContent = "Copied. Keep it somewhere safe.";
  });
  link.addEventListener("focus", () => link.select());
}

// While a deletion is being answered, the page may find the order gone. To load it anew then would break the
// answer off, and with it the way to the receipt.
let isLeaving = false;
document.addEventListener("submit", (event) => {
  if (event.target.closest(".delete")) isLeaving = true;
});
// Shown again by the way back: a page of an order that is gone must not stay.
window.addEventListener("pageshow", () => {
  isLeaving = false;
});

document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 404 && !isLeaving) window.location.reload();
});
