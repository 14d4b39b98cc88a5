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

document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 404) window.location.reload();
});
