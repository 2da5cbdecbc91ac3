// Theme: light, dark, or as the system; set in the head, before the page is drawn.
"use strict";
(() => {
  const root = document.documentElement;
  const key = `orl-theme:${location.pathname}`;

  // A file opened from disk may have no local storage: then the choice lasts until it is closed.
  function storedTheme() {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  }

  function storeTheme(theme) {
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

  function showChoice() {
    const choice = document.querySelector(".theme");
    for (const input of choice.querySelectorAll("input")) {
      input.checked = input.value === (root.dataset.theme ?? "auto");
      input.addEventListener("change", () => {
        apply(input.value);
        storeTheme(input.value);
      });
    }
    choice.hidden = false;
  }

  apply(storedTheme());
  document.addEventListener("DOMContentLoaded", showChoice);
})();
