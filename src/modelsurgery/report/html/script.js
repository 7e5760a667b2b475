"use strict";
// Filters and blurred text; the page is whole without it.
const controls = document.querySelector(".controls");
if (controls) {
  controls.hidden = false;
  const toggled = (button) => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    return pressed;
  };
  controls.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const pressed = toggled(button);
    if (button.id === "unblur") {
      document.body.classList.toggle("unblurred", pressed);
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
  if (text.classList.toggle("read") === false) text.blur();
};
document.addEventListener("click", read);
document.addEventListener("keydown", read);
