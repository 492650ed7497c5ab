// The pages work without this file. It swaps in parts that change, and shows chosen images before they are sent.
"use strict";

for (const part of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(part.dataset.live);
  source.addEventListener("html", (event) => swap(part, event.data));
  source.addEventListener("end", () => source.close());
  window.addEventListener("pagehide", () => source.close());
}

// Replace the content of a part. What is open stays open, and the focus stays where it was.
function swap(part, html) {
  const open = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const place = focused && (focused.id ? `#${CSS.escape(focused.id)}` : selectorOf(focused));
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  for (const id of open) fresh.content.getElementById(id)?.setAttribute("open", "");
  if (fresh.innerHTML.trim() === part.innerHTML.trim()) return;
  part.replaceChildren(fresh.content);
  if (place) part.querySelector(place)?.focus({ preventScroll: true });
}

function selectorOf(element) {
  const href = element.getAttribute("href");
  return href ? `a[href="${CSS.escape(href)}"]` : null;
}

// Images can be dropped on their input, and are drawn small on a canvas before they are sent.
for (const area of document.querySelectorAll("[data-drop]")) {
  const input = area.querySelector("input");
  const previews = area.querySelector(".previews");
  const mark = (isOver) => area.classList.toggle("over", isOver);
  area.addEventListener("dragover", (event) => { event.preventDefault(); mark(true); });
  area.addEventListener("dragleave", () => mark(false));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const dropped = new DataTransfer();
    const images = [...event.dataTransfer.files].filter((file) => file.type.startsWith("image/"));
    for (const file of input.multiple ? images : images.slice(0, 1)) dropped.items.add(file);
    input.files = dropped.files;
    show(input.files, previews);
  });
  input.addEventListener("change", () => show(input.files, previews));
}

async function show(files, previews) {
  previews.replaceChildren();
  for (const file of files) {
    const image = await createImageBitmap(file).catch(() => null);
    if (!image) continue;
    const scale = Math.min(1, 160 / Math.max(image.width, image.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, image.width * scale);
    canvas.height = Math.max(1, image.height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    image.close();
    previews.append(canvas);
  }
}

// A model's form is shown as soon as the model is chosen.
document.querySelector('form[action="/new"][method="get"] select')?.addEventListener("change", (event) => event.target.form.submit());
