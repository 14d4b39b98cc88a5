// The free pack's price: the browser works a moment for it, in a thread of its own, while the form is filled in.

const FRESH_MS = 15 * 60 * 1000; // less than a challenge lasts
const STEP_PERCENT = 20; // what is said aloud must not be said at every count
const form = document.getElementById("upload");
const field = document.getElementById("altcha");
const send = document.getElementById("send");
const status = document.getElementById("sending");
let task = null; // {begunAt, said: the percents reached, done: a promise}
let isWaiting = false;

const isFree = () => form.querySelector("[name=tier]:checked").value === "free";
const isFresh = () => task && Date.now() - task.begunAt < FRESH_MS;

function say(percent) {
  if (task) task.said = percent;
  if (isWaiting) status.textContent = `Your browser is working for your free pack: ${percent} % …`;
}

function solved(challenge) {
  const worker = new Worker(field.dataset.worker);
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.solution) resolve(data.solution);
      else if (data.error) reject(new Error(data.error));
      else say(Math.floor((data.counter / challenge.parameters.data.steps) * (100 / STEP_PERCENT)) * STEP_PERCENT);
    };
    worker.onerror = () => reject(new Error("the worker did not start"));
    worker.postMessage(challenge.parameters);
  }).finally(() => worker.terminate());
}

async function work() {
  const answer = await fetch(field.dataset.challenge);
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const challenge = await answer.json();
  return btoa(JSON.stringify({ challenge, solution: await solved(challenge) }));
}

function begin() {
  if (!isFree() || isFresh()) return;
  const begun = { begunAt: Date.now(), said: 0, done: work() };
  task = begun;
  field.value = "";
  // Set as soon as it is there: while a submit event is under way, no form can be sent anew.
  begun.done = begun.done.then((solution) => { if (task === begun) field.value = solution; });
  begun.done.catch(() => { if (task === begun) task = null; }); // the next try begins anew
}

async function finish() {
  begin();
  say(task.said);
  try {
    await task.done;
  } catch {
    window.tell(
      "Your browser could not do the small task that the free pack costs.",
      "Check your connection and send it again. An old browser, or a page that is not https, cannot do it.",
    );
    status.textContent = "";
    return;
  } finally {
    isWaiting = false;
    send.disabled = false;
  }
  form.requestSubmit();
}

form.addEventListener("change", begin);
form.addEventListener("submit", (event) => {
  if (!isFree()) {
    field.value = "";
    return;
  }
  if (field.value && isFresh()) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // nothing is being sent yet
  if (isWaiting) return;
  isWaiting = true;
  send.disabled = true;
  finish();
});
window.addEventListener("pageshow", () => {
  task = null; // one that was sent is used up
  field.value = "";
});
