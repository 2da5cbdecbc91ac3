// Light, dark, or as the system: chosen in the page's head, before anything is drawn.
"use strict";
(() => {
  const root = document.documentElement;
  const key = `orl-theme:${location.pathname}`;

  // A file opened from disk may not be allowed a memory: then the choice lasts until it is closed.
  function remembered() {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  }

  function remember(theme) {
    try {
      if (theme === "auto") localStorage.removeItem(key);
      else localStorage.setItem(key, theme);
    } catch {
      // As above.
    }
  }

  function apply(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  function offer() {
    const choice = document.querySelector(".theme");
    for (const input of choice.querySelectorAll("input")) {
      input.checked = input.value === (root.dataset.theme ?? "auto");
      input.addEventListener("change", () => {
        apply(input.value);
        remember(input.value);
      });
    }
    choice.hidden = false;
  }

  apply(remembered());
  document.addEventListener("DOMContentLoaded", offer);
})();
