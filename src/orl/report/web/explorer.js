// The pairs of the correspondence gallery: sorted, filtered, counted, a page at a time.
"use strict";
(() => {
  const PAGE = 12;

  const similarity = (pair) => Number(pair.dataset.similarity);
  const byName = (a, b) => a.dataset.query.localeCompare(b.dataset.query, undefined, { numeric: true });
  const ORDERS = {
    listed: (pairs) => pairs,
    highest: (pairs) => pairs.toSorted((a, b) => similarity(b) - similarity(a)),
    lowest: (pairs) => pairs.toSorted((a, b) => similarity(a) - similarity(b)),
    name: (pairs) => pairs.toSorted((a, b) => byName(a, b) || similarity(b) - similarity(a)),
    random: shuffled,
  };

  function shuffled(pairs) {
    const drawn = [...pairs];
    for (let last = drawn.length - 1; last > 0; last--) {
      const other = Math.floor(Math.random() * (last + 1));
      [drawn[last], drawn[other]] = [drawn[other], drawn[last]];
    }
    return drawn;
  }

  function matches(pair, asked) {
    const has = (list, word) => word === "" || list.split(" ").includes(word);
    return (
      has(pair.dataset.kinds, asked.kind) &&
      has(pair.dataset.covers ?? "", asked.covers) &&
      (asked.least === null || similarity(pair) >= asked.least) &&
      pair.dataset.names.toLowerCase().includes(asked.text)
    );
  }

  function explore(explorer) {
    const form = explorer.querySelector("form");
    const gallery = explorer.querySelector(".gallery");
    const more = explorer.querySelector(".more");
    const told = form.querySelector("output.count");
    const fields = form.elements;
    const listed = [...gallery.children];
    let ordered = listed;
    let room = PAGE;

    function asked() {
      const slider = fields.least;
      const least = slider && Number(slider.value) > Number(slider.min) ? Number(slider.value) : null;
      return {
        kind: fields.kind.value,
        covers: fields.covers?.value ?? "",
        text: fields.text.value.trim().toLowerCase(),
        least,
      };
    }

    function show() {
      const question = asked();
      const found = ordered.filter((pair) => matches(pair, question));
      for (const pair of listed) pair.hidden = true;
      for (const pair of found.slice(0, room)) pair.hidden = false;
      const left = Math.max(0, found.length - room);
      more.hidden = left === 0;
      more.textContent = `Show ${Math.min(PAGE, left)} more`;
      const of = found.length === listed.length ? `${listed.length} pairs` : `${found.length} of ${listed.length} pairs`;
      told.textContent = left ? `${of} match, ${room} shown` : `${of} shown`;
      if (fields.least) form.querySelector("output.least").textContent = question.least?.toFixed(2) ?? "any";
    }

    function restart() {
      room = PAGE;
      show();
    }

    function sort() {
      ordered = ORDERS[fields.sort.value](listed);
      gallery.append(...ordered);
      restart();
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => (event.target === fields.sort ? sort() : restart()));
    // A reset sets the fields after its event.
    form.addEventListener("reset", () => setTimeout(sort));
    more.addEventListener("click", () => {
      const first = ordered.filter((pair) => matches(pair, asked()))[room];
      room += PAGE;
      show();
      first.querySelector("button")?.focus({ preventScroll: true });
    });
    form.hidden = false;
    // A browser may have kept what was chosen before the page was loaded again.
    sort();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".explorer").forEach(explore));
})();
