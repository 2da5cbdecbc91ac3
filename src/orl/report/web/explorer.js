// The pairs of the correspondence gallery: sorts, filters and counts them, and shows a page at a time.
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
    random: shuffle,
  };

  function shuffle(pairs) {
    const shuffled = [...pairs];
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = Math.floor(Math.random() * (last + 1));
      [shuffled[last], shuffled[other]] = [shuffled[other], shuffled[last]];
    }
    return shuffled;
  }

  function matches(pair, criteria) {
    const has = (list, word) => word === "" || list.split(" ").includes(word);
    return (
      has(pair.dataset.kinds, criteria.kind) &&
      has(pair.dataset.covers ?? "", criteria.covers) &&
      (criteria.least === null || similarity(pair) >= criteria.least) &&
      pair.dataset.names.toLowerCase().includes(criteria.text)
    );
  }

  function explore(explorer) {
    const form = explorer.querySelector("form");
    const gallery = explorer.querySelector(".gallery");
    const more = explorer.querySelector(".more");
    const count = form.querySelector("output.count");
    const fields = form.elements;
    const listed = [...gallery.children];
    let ordered = listed;
    let limit = PAGE;

    function readCriteria() {
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
      const criteria = readCriteria();
      const found = ordered.filter((pair) => matches(pair, criteria));
      for (const pair of listed) pair.hidden = true;
      for (const pair of found.slice(0, limit)) pair.hidden = false;
      const left = Math.max(0, found.length - limit);
      more.hidden = left === 0;
      more.textContent = `Show ${Math.min(PAGE, left)} more`;
      const of = found.length === listed.length ? `${listed.length} pairs` : `${found.length} of ${listed.length} pairs`;
      count.textContent = left ? `${of} match, ${limit} shown` : `${of} shown`;
      if (fields.least) form.querySelector("output.least").textContent = criteria.least?.toFixed(2) ?? "any";
    }

    function restart() {
      limit = PAGE;
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
      const first = ordered.filter((pair) => matches(pair, readCriteria()))[limit];
      limit += PAGE;
      show();
      first.querySelector("button")?.focus({ preventScroll: true });
    });
    form.hidden = false;
    // A browser may restore the fields after a reload.
    sort();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".explorer").forEach(explore));
})();
