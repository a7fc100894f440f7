"use strict";
const find = (id) => document.getElementById(id);
const AT_ONCE = 4, TRIES = 30, SHOWN = 5;
const waiting = [];
let running = 0, left = 0;

async function limits() {
  const response = await fetch("labels");
  if (!response.ok) throw new Error("no answer");
  return response.json();
}

function percent(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  return `${(Math.min(value, value < 1 ? 0.9999 : 1) * 100).toFixed(value < 1 && value >= 0.9995 ? 2 : 1)} %`;
}

function made(kind, text, name) {
  const element = document.createElement(kind);
  if (text) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function say(text) {
  find("status").textContent = text;
}

function add(files) {
  if (!files.length) return;
  const known = limits();  // anew: since the page was loaded, the server may have come back as another
  known.catch(() => {});  // each photograph tells of it
  for (const file of files) {
    const card = find("card").content.firstElementChild.cloneNode(true);
    const picture = card.querySelector("img");
    const url = URL.createObjectURL(file);
    picture.onload = () => URL.revokeObjectURL(url);
    picture.onerror = () => {
      URL.revokeObjectURL(url);
      picture.replaceWith(made("span", "no preview", "none"));
    };
    picture.src = url;
    picture.alt = file.name ? `The photograph ${file.name}` : "The photograph";
    card.classList.add("waits");
    card.querySelector("h2").textContent = "waiting…";
    card.querySelector(".name").textContent = file.name;
    find("answers").prepend(card);
    waiting.push({ file, card, known });
    left += 1;
  }
  find("clear").hidden = !find("answers").children.length;
  say(`${left} ${left === 1 ? "photograph waits" : "photographs wait"} for an answer.`);
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    const one = waiting.shift();
    answer(one).catch(() => fail(one.card, "no answer", "The server could not be reached.")).finally(() => {
      running -= 1;
      left -= 1;
      next();
    });
  }
}

async function answer({ file, card, known }) {
  const settings = await known;
  if (file.size > settings.limits.bytes * 0.999) {
    fail(card, "too large", `It has ${file.size} bytes, over the server's limit of ${settings.limits.bytes}.`);
    return;
  }
  for (let tries = 1; ; tries += 1) {
    const form = new FormData();
    form.append("files", file, file.name || "photograph");
    const response = await fetch(`predict?top=${SHOWN}&nearest=${settings.nearest}`, { method: "POST", body: form });
    if (response.status === 429 && tries < TRIES) {
      await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") || 1)));
      continue;
    }
    const found = await response.json();
    const first = found.answers ? found.answers[0] : null;
    if (first && first.label !== undefined) show(card, first);
    else fail(card, first ? first.rejected.replaceAll("-", " ") : "no answer", first ? first.detail : found.error);
    return;
  }
}

function fail(card, title, detail) {
  card.classList.remove("waits");
  card.classList.add("failed");
  card.querySelector("h2").textContent = title;
  card.querySelector(".rows").replaceChildren(made("p", detail));
  say(`${card.querySelector(".name").textContent || "photograph"}: ${title}.`);
}

function show(card, found) {
  card.classList.remove("waits");
  const flags = [];
  if (found.unsure) flags.push("unsure");
  if (found.unlike) flags.push("unlike the training data");
  card.querySelector("h2").textContent = found.label;
  card.querySelector(".flags").replaceChildren(...flags.map((text) => made("span", text)));
  card.querySelector(".rows").replaceChildren(...found.top.map(row));
  const near = card.querySelector(".near");
  near.hidden = !(found.nearest && found.nearest.length);
  if (!near.hidden) near.lastElementChild.replaceChildren(...found.nearest.map(neighbour));
  const told = [`${found.label}, ${percent(found.probability)}`, ...flags].join(", ");
  say(`${card.querySelector(".name").textContent || "photograph"}: ${told}.`);
}

function row({ label, probability }) {
  const line = made("div", "", "row"), bar = made("div", "", "bar"), part = made("i", "", "c0");
  part.style.width = `${100 * probability}%`;
  bar.setAttribute("aria-hidden", "true");
  bar.append(part);
  line.append(made("div", label), bar, made("div", percent(probability), "n"));
  return line;
}

function neighbour({ label, image }) {
  const figure = made("figure"), picture = made("img");
  picture.onerror = () => picture.replaceWith(made("span", "no picture", "none"));
  picture.alt = `A training image of ${label}`;
  picture.src = image;
  figure.append(picture, made("figcaption", label));
  return figure;
}

for (const id of ["choose", "take"]) {
  find(id).addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";
  });
}
find("form").addEventListener("submit", (event) => event.preventDefault());
find("clear").addEventListener("click", () => {
  left -= waiting.length;
  waiting.length = 0;
  find("answers").replaceChildren();
  find("clear").hidden = true;
  say("");
  find("choose").focus();
});
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
let depth = 0;
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    if (kind === "dragenter") depth += 1;
    if (kind === "dragleave") depth -= 1;
    if (kind === "drop") depth = 0;
    find("form").classList.toggle("over", depth > 0);
    if (kind === "drop") add([...event.dataTransfer.files]);
  });
}
