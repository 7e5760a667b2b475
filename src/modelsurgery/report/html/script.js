"use strict";
// Filters, blurred text, light or dark; the page is whole without it.
const root = document.documentElement;
root.classList.add("scripted");

const toggled = (button) => {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  return pressed;
};
const reveal = (text, isRead) => {
  text.classList.toggle("read", isRead);
  if (isRead) text.removeAttribute("aria-label");
  else text.setAttribute("aria-label", "blurred text, press to read");
};

for (const controls of document.querySelectorAll(".controls")) {
  controls.hidden = false;
  controls.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const pressed = toggled(button);
    if (button.id === "unblur") {
      for (const text of document.querySelectorAll(".blur")) reveal(text, pressed);
      return;
    }
    for (const pair of document.querySelectorAll(".pair")) {
      if (pair.dataset.kind === button.dataset.kind) pair.hidden = !pressed;
    }
  });
}

const read = (event) => {
  const text = event.target.closest(".blur");
  if (!text) return;
  if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  reveal(text, !text.classList.contains("read"));
};
document.addEventListener("click", read);
document.addEventListener("keydown", read);

const theme = document.getElementById("theme");
if (theme) {
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const now = root.dataset.theme || system;
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
}
