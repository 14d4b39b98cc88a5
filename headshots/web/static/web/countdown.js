// Counts down to the deletion once a second; the server's words stay where no script runs.
"use strict";

for (const element of document.querySelectorAll("[data-countdown]")) {
  const end = Date.parse(element.dateTime);
  const two = (number) => String(number).padStart(2, "0");
  const tick = () => {
    const seconds = Math.max(0, Math.floor((end - Date.now()) / 1000));
    const hours = Math.floor(seconds / 3600);
    element.textContent = `${hours} h ${two(Math.floor(seconds / 60) % 60)} min ${two(seconds % 60)} s`;
    if (!seconds) {
      window.clearInterval(timer);
      window.location.reload();
    }
  };
  const timer = window.setInterval(tick, 1000);
}
