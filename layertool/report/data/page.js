"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const svgNames = "http://www.w3.org/2000/svg";  // the name of a namespace, which nothing is loaded from
  const dashes = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4", longdashdot: "11 3 2 3" };
  const config = { displayModeBar: false, responsive: false, doubleClick: false, scrollZoom: false, showTips: false };
  const swatchWidth = 34, swatchHeight = 14, lineHeight = 20, captionSize = 13;

  const element = (name, attributes, parent) => {
    const made = document.createElementNS(svgNames, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.appendChild(made);
    return made;
  };

  const shapes = {
    circle: "M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z", square: "M-3.5-3.5H3.5V3.5H-3.5Z", diamond: "M0-5L4.5 0L0 5L-4.5 0Z",
    "triangle-up": "M0-4.5L4.5 3.5H-4.5Z", "triangle-down": "M0 4.5L4.5-3.5H-4.5Z",
    cross: "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
    x: "M-4.5-2.5L-2.5-4.5L0-2L2.5-4.5L4.5-2.5L2 0L4.5 2.5L2.5 4.5L0 2L-2.5 4.5L-4.5 2.5L-2 0Z",
    star: "M0-5L1.3-1.7L4.8-1.6L2 .6L3 4L0 2L-3 4L-2 .6L-4.8-1.6L-1.3-1.7Z",
  };

  const patterns = { "/": "M0 8L8 0", "\\": "M0 0L8 8", x: "M0 0L8 8M0 8L8 0", "-": "M0 4H8", "|": "M4 0V8", "+": "M0 4H8M4 0V8", ".": "M3 4H5" };

  // What a series looks like, as in the panels: its line and marker, or its bar.
  const swatch = (mark, isBar) => {
    const made = element("svg", { width: swatchWidth, height: swatchHeight, viewBox: `0 0 ${swatchWidth} ${swatchHeight}`, "aria-hidden": "true" });
    if (isBar) {
      element("rect", { x: 4, y: 1, width: 26, height: 12, fill: mark.colour, stroke: "#222", "stroke-width": 0.6 }, made);
      if (patterns[mark.pattern]) for (const x of [5, 13, 21]) {
        element("path", { d: patterns[mark.pattern], transform: `translate(${x} 3)`, stroke: "#fff", "stroke-width": 1.6, fill: "none" }, made);
      }
      return made;
    }
    element("line", { x1: 1, y1: 7, x2: swatchWidth - 1, y2: 7, stroke: mark.colour, "stroke-width": 2, "stroke-dasharray": dashes[mark.dash] ?? mark.dash.replaceAll("px", "") }, made);
    if (shapes[mark.symbol]) element("path", { d: shapes[mark.symbol], transform: `translate(${swatchWidth / 2} 7)`, fill: mark.colour }, made);
    return made;
  };

  const plots = (figure) => figure.panels.map((_, k) => document.getElementById(`${figure.id}-${k}`));

  const heightOf = (panel, width) => panel.aspect === null ? panel.layout.height : Math.round(Math.min(width, 620) * panel.aspect + 62);

  const draw = (figure) => plots(figure).forEach((plot, k) => {
    const panel = figure.panels[k];
    const width = plot.clientWidth;
    Plotly.newPlot(plot, panel.data, { ...panel.layout, width, height: heightOf(panel, width) }, config);
  });

  const fit = (figure) => plots(figure).forEach((plot, k) => {
    const width = plot.clientWidth;
    if (width && plot.layout && plot.layout.width !== width) Plotly.relayout(plot, { width, height: heightOf(figure.panels[k], width) });
  });

  // Series are switched in all panels of a figure.
  const toggle = (figure, button) => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const plot of plots(figure)) {
      const traces = plot.data.flatMap((trace, k) => trace.meta === button.dataset.series ? [k] : []);
      if (traces.length) Plotly.restyle(plot, { visible: on }, traces);
    }
  };

  const isBar = (figure) => figure.panels.some((panel) => panel.data.some((trace) => trace.type === "bar"));

  const legend = (figure, box) => {
    for (const mark of figure.legend) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.series = mark.key;
      button.setAttribute("aria-pressed", "true");
      button.append(swatch(mark, isBar(figure)), document.createTextNode(mark.name));
      button.addEventListener("click", () => toggle(figure, button));
      box.append(button);
    }
  };

  // The arrow keys go from point to point (left, right) and from series to series (up, down).
  const readable = (plot, live) => {
    let series = 0, point = -1;
    const shown = () => plot.data.flatMap((trace, k) => trace.hovertext && trace.visible !== false && trace.type !== "heatmap" ? [k] : []);
    const plain = (text) => text.replaceAll("<br>", "; ").replaceAll(/<\/?b>/g, "")
      .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
    plot.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const traces = shown();
      if (!steps || !traces.length) return;
      event.preventDefault();
      series = (series + steps[0] + traces.length) % traces.length;
      const texts = plot.data[traces[series]].hovertext;
      point = Math.min(Math.max(point + steps[1], 0), texts.length - 1);
      live.textContent = plain(texts[point]);
      Plotly.Fx.hover(plot, [{ curveNumber: traces[series], pointNumber: point }]);
    });
    plot.addEventListener("blur", () => Plotly.Fx.unhover(plot));
  };

  const save = (name, kind, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const cell = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const csv = (figure) => {
    const { columns, data } = page[figure.source];
    return [columns, ...figure.rows.map((k) => data[k])].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };

  const words = (parent, x, y, text, size, more = {}) => {
    element("text", { x, y, "font-size": size, "font-family": "Arial, sans-serif", fill: "#1a1a1a", ...more }, parent).textContent = text;
  };

  // All panels with their titles and the legend of what is switched on, as one drawing.
  const svg = async (figure) => {
    const boxes = plots(figure), gap = 20, titles = boxes.map((plot) => plot.parentElement.querySelector("h4").innerText.split("\n").filter(Boolean));
    const left = Math.min(...boxes.map((plot) => plot.getBoundingClientRect().left));
    const tops = [...new Set(boxes.map((plot) => Math.round(plot.getBoundingClientRect().bottom)))];
    const whole = element("svg", { xmlns: svgNames });
    element("rect", { width: "100%", height: "100%", fill: "#fff" }, whole);
    let top = 8, width = 0;
    for (const bottom of tops) {
      const row = boxes.map((plot, k) => [plot, k]).filter(([plot]) => Math.round(plot.getBoundingClientRect().bottom) === bottom);
      const head = Math.max(...row.map(([, k]) => titles[k].length)) * 16, high = Math.max(...row.map(([plot]) => plot.layout.height));
      for (const [plot, k] of row) {
        const x = Math.round(plot.getBoundingClientRect().left - left), size = { width: plot.layout.width, height: plot.layout.height };
        titles[k].forEach((line, n) => words(whole, x, top + 12 + 16 * n, line, captionSize, { "font-weight": "bold" }));
        const url = await Plotly.toImage(plot, { format: "svg", ...size });
        const text = decodeURIComponent(url.slice(url.indexOf(",") + 1));
        const inner = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
        inner.setAttribute("x", x);
        inner.setAttribute("y", top + head + high - size.height);
        whole.appendChild(document.importNode(inner, true));
        width = Math.max(width, x + size.width);
      }
      top += head + high + gap;
    }
    const on = [...document.querySelectorAll(`#${figure.id} .legend button[aria-pressed="true"]`)].map((button) => button.dataset.series);
    let x = 4;
    for (const mark of figure.legend.filter((one) => on.includes(one.key))) {
      const wide = swatchWidth + 14 + mark.name.length * 7;
      if (x > 4 && x + wide > width) { x = 4; top += lineHeight; }
      const drawn = swatch(mark, isBar(figure));
      drawn.setAttribute("x", x);
      drawn.setAttribute("y", top);
      whole.appendChild(drawn);
      words(whole, x + swatchWidth + 5, top + 11, mark.name, captionSize);
      x += wide;
    }
    top += figure.legend.length ? lineHeight + 6 : 0;
    for (const [key, value] of Object.entries({ width, height: top, viewBox: `0 0 ${width} ${top}` })) whole.setAttribute(key, value);
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + new XMLSerializer().serializeToString(whole);
  };

  for (const figure of page.figures) {
    const box = document.getElementById(figure.id);
    legend(figure, box.querySelector(".legend"));
    draw(figure);
    plots(figure).forEach((plot) => readable(plot, box.querySelector(".live")));
    box.querySelector('[data-save="csv"]').addEventListener("click", () => save(`${figure.id}.csv`, "text/csv", csv(figure)));
    box.querySelector('[data-save="svg"]').addEventListener("click", async () => save(`${figure.id}.svg`, "image/svg+xml", await svg(figure)));
  }

  const copy = document.getElementById("copy");
  copy.addEventListener("click", async () => {
    const text = document.getElementById("methods-text");
    let said = "Copied.";
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {  // not every browser lets a file do this
      getSelection().selectAllChildren(text);
      said = "It is selected: copy it with the keyboard.";
    }
    document.getElementById("copied").textContent = said;
  });

  const fitAll = () => page.figures.forEach(fit);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(fitAll, 120); });
  matchMedia("print").addEventListener("change", fitAll);
  addEventListener("beforeprint", fitAll);
  addEventListener("afterprint", fitAll);

  // What is printed says where its numbers come from.
  const folded = [...document.querySelectorAll('section[aria-labelledby="provenance"] details:not([open])')];
  addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
  addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
  document.documentElement.dataset.ready = "yes";
})();
