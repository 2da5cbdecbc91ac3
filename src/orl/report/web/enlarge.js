// Shows a picture in a dialog as large as the window; arrow keys step through its gallery.
"use strict";
(() => {
  const dialog = document.createElement("dialog");
  const where = Object.assign(document.createElement("span"), { className: "where" });
  const shown = Object.assign(document.createElement("div"), { className: "shown", tabIndex: -1 });
  const buttons = { previous: button("Previous"), next: button("Next"), close: button("Close") };
  let figures = [];
  let position = 0;

  function button(text) {
    return Object.assign(document.createElement("button"), { type: "button", className: "plain", textContent: text });
  }

  function opener(figure) {
    return figure.querySelector(".zoom");
  }

  function open(figure) {
    const gallery = figure.closest(".gallery") ?? figure.parentElement;
    figures = [...gallery.querySelectorAll("figure")].filter((each) => !each.hidden && opener(each));
    position = figures.indexOf(figure);
    show();
    dialog.showModal();
  }

  function show() {
    const figure = figures[position];
    const caption = figure.querySelector("figcaption");
    shown.replaceChildren(figure.querySelector(".picture").cloneNode(true), ...(caption ? [caption.cloneNode(true)] : []));
    shown.scrollTop = 0;
    where.textContent = `${position + 1} of ${figures.length}`;
    buttons.previous.disabled = position === 0;
    buttons.next.disabled = position === figures.length - 1;
  }

  function step(by) {
    const next = position + by;
    if (next < 0 || next >= figures.length) return;
    position = next;
    show();
    // A button that has just been disabled would lose the focus.
    if (!dialog.contains(document.activeElement) || document.activeElement.disabled) buttons.close.focus();
  }

  function build() {
    const top = Object.assign(document.createElement("div"), { className: "bar-top" });
    where.setAttribute("role", "status");
    dialog.setAttribute("aria-label", "Enlarged picture");
    top.append(where, buttons.previous, buttons.next, buttons.close);
    dialog.append(top, shown);
    buttons.previous.addEventListener("click", () => step(-1));
    buttons.next.addEventListener("click", () => step(1));
    buttons.close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) {
        event.preventDefault();
        step(by);
      }
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => {
      const last = figures[position];
      shown.replaceChildren();
      opener(last).focus({ preventScroll: true });
      last.scrollIntoView({ block: "nearest" });
    });
    document.body.append(dialog);
  }

  // The buttons are made here: without scripts a picture is no button that does nothing.
  function makeOpener(figure) {
    const picture = figure.querySelector(".picture");
    if (!picture) return;
    const zoom = Object.assign(document.createElement("button"), { type: "button", className: "zoom", title: "Enlarge" });
    picture.replaceWith(zoom);
    zoom.append(picture);
    zoom.addEventListener("click", () => open(figure));
  }

  document.addEventListener("DOMContentLoaded", () => {
    build();
    document.querySelectorAll("figure").forEach(makeOpener);
  });
})();
