"use strict";
// Shows what a token knows: on hover, tap and keyboard focus. All that is written is text, never HTML.
(() => {
  const figure = (x) => (x === null || x === undefined ? "–" : Number(x).toPrecision(3).replace("-", "−"));
  const share = (x) => (x === null || x === undefined ? "–" : (100 * x).toFixed(1) + " %");
  const made = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const level = (value, limit, levels) =>
    Math.round(levels * Math.min(Math.max(value / limit, -1), 1));

  for (const map of document.querySelectorAll(".map")) {
    const data = JSON.parse(map.querySelector("script").textContent);
    const panel = map.querySelector(".panel");
    const tokens = [...map.querySelectorAll(".text .tok")];
    const several = data.values.length > 1;
    const by = (side) => (several ? " by " + data.values[side] : "");
    let chosen = null;
    let twins = [];

    const known = (token) => data.texts[token.parentElement.dataset.text][token.dataset.at];
    const side_of = (token) => Number(token.parentElement.dataset.side);

    const table = (one) => {
      const made_table = made("table");
      const head = made_table.createTHead().insertRow();
      const values = data.values.map((name, side) => "value" + by(side));
      const masses = ["learner", "designer's target", "oracle's target" + by(0)];
      for (const name of ["candidate", ...values, ...masses]) {
        const cell = made("th", name, name === "candidate" ? "" : "n");
        cell.scope = "col";
        head.append(cell);
      }
      const body = made_table.createTBody();
      one.c.forEach(([token, own, value, designer, oracle, ...others], place) => {
        const row = body.insertRow();
        const first = made("td", token);
        if (place === 0) first.append(made("span", " (the text's)", "own"));
        row.append(first);
        [value, ...others].forEach((one_value, side) => {
          const limit = data.modes[0].limits[side];
          const kind = one_value === null ? "n" : "n v" + level(one_value, limit, data.levels);
          row.append(made("td", figure(one_value), kind));
        });
        for (const mass of [own, designer, oracle]) row.append(made("td", share(mass), "n"));
      });
      const box = made("div", undefined, "wide");
      box.append(made_table);
      return box;
    };

    const show = (token) => {
      if (chosen === token) return;
      if (chosen) {
        chosen.classList.remove("at");
        chosen.tabIndex = -1;
      }
      for (const twin of twins) twin.classList.remove("twin");
      twins = tokens.filter((other) => other !== token && known(other) === known(token));
      for (const twin of twins) twin.classList.add("twin");
      chosen = token;
      token.classList.add("at");
      for (const other of map.querySelectorAll(".tok[tabindex='0']")) other.tabIndex = -1;
      token.tabIndex = 0;
      const one = known(token);
      const title = made("p");
      title.append(made("b", one.s));
      if (one.w) title.append(" · known to be wrong");
      const parts = [title];
      if (one.v.every((values) => values.every((value) => value === null))) {
        parts.push(made("p", "Not predicted: it is part of the prompt, or of what is left out."));
      } else {
        const said = data.modes.map((mode, place) => mode.label + " " +
          one.v.map((values, side) => figure(values[place]) + by(side)).join(", "));
        if (one.g !== null) said.push("mass moved off the text's token " + share(one.g));
        parts.push(made("p", "value of " + said.join(" · ")));
        if (one.c.length) parts.push(table(one));
      }
      panel.replaceChildren(...parts);
    };

    const shade = (mode) => {
      for (const token of tokens) {
        const side = side_of(token);
        const value = known(token).v[side][mode];
        if (value === null) continue;
        const kept = [...token.classList].filter((name) => !/^v-?\d+$/.test(name));
        token.className = [...kept, "v" + level(value, data.modes[mode].limits[side], data.levels)].join(" ");
      }
    };

    const of = (event) => event.target.closest(".text .tok");
    for (const kind of ["mouseover", "focusin", "click"]) {
      map.addEventListener(kind, (event) => {
        const token = of(event);
        if (token) show(token);
      });
    }
    map.addEventListener("keydown", (event) => {
      const token = of(event);
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (!token || !(event.key in steps)) return;
      const next = tokens[tokens.indexOf(token) + steps[event.key]];
      if (next) next.focus();
      event.preventDefault();
    });
    const buttons = [...map.querySelectorAll("button[data-mode]")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        shade(Number(button.dataset.mode));
      });
    }
  }
})();
