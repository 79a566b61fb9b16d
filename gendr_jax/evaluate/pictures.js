/* The table of all pictures: sorted, filtered, drawn as it is scrolled. Part of page.js. */

const view = { metrics: new Set(), column: -1, method: 0, down: false, filter: "", rows: new Map(), found: [], step: 100 };
const byName = new Intl.Collator("en", { numeric: true });

function sorted(images) {
  const { column, method, down } = view;
  return [...images].sort((a, b) => {
    if (column < 0) return byName.compare(a.name, b.name) * (down ? -1 : 1);
    const x = a.values[method][column], y = b.values[method][column];
    if (x === null || y === null) return (x === null) - (y === null);
    return (x - y) * (down ? -1 : 1) || byName.compare(a.name, b.name);
  });
}

function sortHead(text, column, method, properties = {}) {
  const mine = view.column === column && (column < 0 || view.method === method);
  const state = mine ? (view.down ? "descending" : "ascending") : "none";
  return make("th", { scope: "col", "aria-sort": state, ...properties },
    make("button", { type: "button", onclick: () => {
      view.down = mine && !view.down;
      view.column = column;
      view.method = method;
      drawImages();
      at("images").querySelector("th:not([aria-sort=none]) button").focus();
    } }, text));
}

const chosenMetrics = () =>
  data.metrics.map((m, k) => [m, k]).filter(([m]) => view.metrics.has(m.name));

/* One row; made once for a choice of metrics, since sorting only moves it. */
function imageRow(image) {
  const i = data.crops.findIndex((crop) => crop.name === image.name);
  const name = i < 0 ? image.name : make("a", { href: `#crop-${i}` }, image.name);
  const thumb = image.thumb ? make("img", { src: image.thumb, alt: "" }) : null;
  return make("tr", {}, make("th", { scope: "row" },
    make("span", { className: "picture" }, thumb, make("span", {}, name))),
    ...chosenMetrics().flatMap(([metric, k]) => {
      const values = image.values.map((row) => row[k]);
      return values.map((value, i) => make("td", { className: i ? "" : "first" },
        value === null ? "–" : shown(value, metric)));
    }));
}

function drawHeads() {
  const several = data.methods.length > 1;
  const groups = make("tr", {}, make("th", {}), ...chosenMetrics().map(([m]) => make("th",
    { className: "group", colSpan: data.methods.length, title: m.protocol },
    m.name + arrow[m.better])));
  const heads = make("tr", {}, sortHead("picture", -1, 0), ...chosenMetrics().flatMap(([m, k]) =>
    data.methods.map((method, i) => sortHead(several ? method.name : m.name, k, i,
      { className: i ? "" : "first" }))));
  at("images").tHead.replaceChildren(...(several ? [groups, heads] : [heads]));
}

/* As many rows more: the layout of thousands takes a second. */
function drawRows(count) {
  const body = at("images").tBodies[0];
  const drawn = body.rows.length;
  body.append(...view.found.slice(drawn, drawn + count).map((image) => {
    if (!view.rows.has(image.name)) view.rows.set(image.name, imageRow(image));
    return view.rows.get(image.name);
  }));
  const left = view.found.length - body.rows.length;
  at("count").textContent = `${view.found.length} of ${data.images.length}` +
    (left ? `, the first ${body.rows.length} drawn` : "");
  at("more").hidden = !left;
}

function drawImages() {
  drawHeads();
  view.found = sorted(data.images.filter((image) =>
    image.name.toLowerCase().includes(view.filter)));
  at("images").tBodies[0].replaceChildren();
  at("images").parentElement.scrollTop = 0;
  drawRows(view.step);
}

/* The next rows, a screen before the end is reached. */
function drawOn(box) {
  if (box.scrollTop + 2 * box.clientHeight > box.scrollHeight) drawRows(view.step);
}

function drawChosen() {
  at("chosen").replaceChildren(...data.metrics.map((m) => button(m.name, view.metrics.has(m.name), () => {
    if (view.metrics.has(m.name)) view.metrics.delete(m.name);
    else view.metrics.add(m.name);
    if (view.column >= 0 && !view.metrics.has(data.metrics[view.column].name)) view.column = -1;
    view.rows.clear();
    drawChosen();
    drawImages();
  })));
}

function pictures() {
  const columns = Math.max(2, Math.floor(9 / data.methods.length));
  data.metrics.slice(0, columns).forEach((m) => view.metrics.add(m.name));
  at("filter").oninput = (event) => {
    view.filter = event.target.value.toLowerCase();
    drawImages();
  };
  at("more").onclick = () => drawRows(Infinity);
  const box = at("images").parentElement;
  box.onscroll = () => drawOn(box);
  drawChosen();
  drawImages();
}
