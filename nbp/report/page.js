// Copyright 2026 The NBP Authors
// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  const BATCH = 12; // cards of the gallery that are shown before one asks for more
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const find = (id) => document.getElementById(id);

  // Clips: one clock for all, so that every clip shows the same frame -------------------------

  const clips = JSON.parse(find("clip-data").textContent);
  const players = all("canvas[data-clip]").map((canvas) => ({
    canvas,
    clip: clips[Number(canvas.dataset.clip)],
    context: canvas.getContext("2d"),
    figure: canvas.closest("figure"),
    dynamic: null,
  }));
  const total = Math.max(0, ...clips.map((clip) => clip.frames));
  const rate = clips.length ? clips[0].fps : 8;
  const clock = { frame: 0, playing: false, since: 0 };

  function draw(player) {
    const { canvas, clip, context, figure } = player;
    if (!clip.image || canvas.offsetParent === null) return;
    const frame = Math.min(clock.frame, clip.frames - 1); // a shorter clip waits at its end
    const left = (frame % clip.columns) * clip.width;
    const top = Math.floor(frame / clip.columns) * clip.height;
    context.drawImage(clip.image, left, top, clip.width, clip.height, 0, 0, clip.width, clip.height);
    canvas.dataset.frame = String(frame);
    figure.classList.toggle("given", frame < clip.given);
    if (clip.psnr.length) {
      if (!player.dynamic) {
        player.dynamic = document.createElement("span");
        figure.querySelector("figcaption").append(player.dynamic);
      }
      const value = clip.psnr[frame];
      player.dynamic.textContent = value === undefined ? "" : `frame: ${value.toFixed(1)} dB`;
    }
  }

  function drawAll() {
    for (const player of players) draw(player);
    const bar = find("frame");
    if (!bar) return;
    bar.value = String(clock.frame);
    bar.setAttribute("aria-valuetext", `frame ${clock.frame + 1} of ${total}`);
    find("shown").textContent = `${clock.frame + 1} / ${total}`;
  }

  function show(frame) {
    clock.frame = ((frame % total) + total) % total;
    drawAll();
  }

  function tick(now) {
    if (!clock.playing) return;
    const period = 1000 / (rate * Number(find("rate").value));
    const steps = Math.floor((now - clock.since) / period);
    if (steps > 0) {
      clock.since = steps > 4 ? now : clock.since + steps * period; // a tab that slept goes on
      show(clock.frame + steps);
    }
    requestAnimationFrame(tick);
  }

  function play(on) {
    clock.playing = on;
    const button = find("play");
    button.textContent = on ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(on));
    if (on) {
      clock.since = performance.now();
      requestAnimationFrame(tick);
    }
  }

  function step(by) {
    play(false);
    show(clock.frame + by);
  }

  if (clips.length) {
    for (const clip of clips) {
      const image = new Image();
      image.onload = () => {
        clip.image = image;
        for (const player of players) if (player.clip === clip) draw(player);
      };
      image.onerror = () => console.error("a clip cannot be decoded");
      image.src = clip.uri;
    }
    find("play").addEventListener("click", () => play(!clock.playing));
    find("back").addEventListener("click", () => step(-1));
    find("forward").addEventListener("click", () => step(1));
    find("frame").addEventListener("input", (event) => {
      play(false);
      show(Number(event.target.value));
    });
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
  }

  // Sort and filter of the gallery ------------------------------------------------------------

  const gallery = find("gallery");
  if (gallery) {
    const cards = all(".card", gallery);
    cards.forEach((card, place) => (card.dataset.place = String(place)));
    let limit = BATCH;

    // The value of the generated clip, else of the reconstruction, among those that are shown.
    function measure(card, name) {
      const shown = all("figure:not([hidden])", card).reverse();
      const figure = shown.find((f) => name in f.dataset && f.dataset.kind !== "real");
      return figure ? Number(figure.dataset[name]) : null;
    }

    function compare(by, sign) {
      if (by === "order") return (a, b) => a.dataset.place - b.dataset.place;
      if (by === "label") return (a, b) => sign * a.dataset.label.localeCompare(b.dataset.label);
      return (a, b) => {
        const [x, y] = [measure(a, by), measure(b, by)];
        if (x === null || y === null) return (x === null) - (y === null); // unmeasured last
        return sign * (x - y);
      };
    }

    function arrange() {
      const kinds = new Set(all("[name=kind]:checked").map((box) => box.value));
      const label = find("label") ? find("label").value : "";
      const protocol = find("protocol") ? find("protocol").value : null; // one for all
      for (const figure of all("figure", gallery)) figure.hidden = !kinds.has(figure.dataset.kind);
      const fitting = cards.filter(
        (card) =>
          (!label || card.dataset.label === label) &&
          (protocol === null || card.dataset.protocol === protocol) &&
          card.querySelector("figure:not([hidden])"),
      );
      const [by, direction] = find("sort").value.split("-");
      fitting.sort((a, b) => a.dataset.place - b.dataset.place);
      fitting.sort(compare(by, direction === "down" ? -1 : 1));
      for (const card of cards) card.hidden = true;
      fitting.forEach((card, place) => {
        card.hidden = place >= limit;
        gallery.append(card);
      });
      const shown = Math.min(limit, fitting.length);
      find("count").textContent = `${shown} of ${cards.length} shown`;
      const more = find("more");
      more.hidden = fitting.length <= limit;
      more.textContent = `Show ${Math.min(BATCH, fitting.length - limit)} more`;
      drawAll();
    }

    find("filters").addEventListener("input", () => {
      limit = BATCH;
      arrange();
    });
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    find("more").addEventListener("click", () => {
      limit += BATCH;
      arrange();
    });
    arrange();
  }

  // Tables -------------------------------------------------------------------------------------

  for (const box of all(".classes")) {
    const body = box.querySelector("tbody");
    const heads = all("thead tr:last-child th", box);
    const read = (row, column) => {
      const cell = row.children[column];
      if (!("value" in cell.dataset)) return cell.textContent;
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = all("tr", body).sort((a, b) => {
          const [x, y] = [read(a, column), read(b, column)];
          if (x === null || y === null) return (x === null) - (y === null);
          const order = typeof x === "string" ? x.localeCompare(y) : x - y;
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
    box.querySelector("input").addEventListener("input", (event) => {
      const part = event.target.value.toLowerCase();
      for (const row of all("tr", body)) {
        row.hidden = !row.children[0].textContent.toLowerCase().includes(part);
      }
    });
  }

  // Runs of a page of several: which are shown, and which one stands out ------------------------

  const boxes = all("[data-pick] input");
  const hidden = new Set();
  const addStyle = () => document.head.appendChild(document.createElement("style"));
  const [hiding, focusing] = [addStyle(), addStyle()];

  function focus(run) {
    focusing.textContent =
      run === null
        ? ""
        : `.chart [data-run]:not([data-run="${run}"]) { opacity: .12; }
           .chart .line[data-run="${run}"] { stroke-width: 3.2; opacity: 1; }
           [data-pick="${run}"], main tr[data-run="${run}"] > *, main table [data-run="${run}"],
           figure[data-run="${run}"] figcaption { background: var(--stress) !important; }`;
  }

  function showRuns() {
    hidden.clear();
    for (const box of boxes) if (!box.checked) hidden.add(Number(box.value));
    const names = [...hidden].map((run) => `main [data-run="${run}"]`);
    hiding.textContent = names.length ? `${names.join(",")} { display: none !important; }` : "";
    const shown = boxes.length - hidden.size;
    if (find("runs-shown")) {
      find("runs-shown").textContent = hidden.size
        ? `${shown} of ${boxes.length} shown`
        : `all ${shown} shown`;
    }
    for (const row of all("#differences tbody tr")) {
      const cells = all("td", row).filter((cell) => !hidden.has(Number(cell.dataset.run)));
      row.hidden = new Set(cells.map((cell) => cell.textContent)).size < 2;
    }
    drawAll();
  }

  if (boxes.length) {
    for (const element of all("[data-pick], main tr[data-run], figure[data-run]")) {
      element.addEventListener("pointerenter", () =>
        focus(element.dataset.pick ?? element.dataset.run),
      );
      element.addEventListener("pointerleave", () => focus(null));
    }
    for (const box of boxes) {
      box.addEventListener("input", showRuns);
      box.addEventListener("focus", () => focus(box.value));
      box.addEventListener("blur", () => focus(null));
    }
    const tick = (on) => {
      for (const box of boxes) if (!box.closest("label").hidden) box.checked = on;
      showRuns();
    };
    find("all-runs")?.addEventListener("click", () => tick(true));
    find("no-runs")?.addEventListener("click", () => tick(false));
    find("find-run")?.addEventListener("input", (event) => {
      const part = event.target.value.toLowerCase();
      for (const label of all("[data-pick]")) {
        label.hidden = !label.textContent.toLowerCase().includes(part);
      }
    });
    showRuns(); // a browser keeps what was ticked when the page is loaded again
  }

  // Values under the pointer in charts -----------------------------------------------------------

  const TOLD = 6; // curves whose values are told at once: those next to the pointer

  const tip = find("tip");
  const form = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

  for (const chart of all(".chart")) {
    const data = JSON.parse(chart.dataset.chart);
    const [left, top, right, bottom] = data.frame;
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of [["class", "cursor"], ["y1", top], ["y2", bottom]]) {
      line.setAttribute(name, String(value));
    }
    const hide = () => {
      focus(null);
      line.remove();
      tip.hidden = true;
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      const scale = (value) => (data.xLog ? Math.log(value) : value);
      const [first, last] = data.x.map(scale);
      const x = first + ((place - left) / (right - left)) * (last - first);
      const away = (point) => Math.abs(scale(point[0]) - x);
      const near = data.curves
        .filter((curve) => !hidden.has(curve.run))
        .map((curve) => ({
          curve,
          point: curve.points.reduce((a, b) => (away(b) < away(a) ? b : a)),
        }));
      if (!near.length) return;
      const at = near.map((n) => n.point).reduce((a, b) => (away(b) < away(a) ? b : a))[0];
      const scaleY = (value) => (data.log ? Math.log(value) : value);
      const [low, high] = data.y.map(scaleY);
      const level = ((event.clientY - box.top) / box.height) * chart.viewBox.baseVal.height;
      const y = low + ((bottom - level) / (bottom - top)) * (high - low);
      const off = (n) => Math.abs(scaleY(n.point[1]) - y);
      const nearest = near.reduce((a, b) => (off(b) < off(a) ? b : a));
      if (nearest.curve.run !== null) focus(nearest.curve.run);
      const spot = String(left + ((scale(at) - first) / (last - first)) * (right - left));
      line.setAttribute("x1", spot);
      line.setAttribute("x2", spot);
      chart.append(line);
      const told =
        near.length > TOLD ? near.sort((a, b) => off(a) - off(b)).slice(0, TOLD) : near;
      const values = told.map(
        ({ curve, point }) => `${curve.name}: ${form.format(point[1])} ${data.unit}`,
      );
      if (told.length < near.length) values.push(`and ${near.length - told.length} more`);
      tip.textContent = [`${data.xName} ${form.format(at)}`, ...values].join("\n");
      tip.hidden = false;
      const wide = tip.offsetWidth;
      tip.style.left = `${Math.max(8, Math.min(innerWidth - wide - 8, event.clientX + 14))}px`;
      tip.style.top = `${event.clientY + 16}px`;
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("pointercancel", hide);
  }

  document.documentElement.dataset.ready = "true";
})();
