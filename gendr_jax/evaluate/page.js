"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

/* An element with properties and children; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function button(text, pressed, onclick) {
  return make("button", { type: "button", "aria-pressed": String(pressed), onclick }, text);
}

/* Buttons of which one is pressed. */
function choice(place, options, chosen, tell) {
  const draw = (now) => {
    place.replaceChildren(
      ...options.map(([value, text]) =>
        button(text, value === now, () => { draw(value); tell(value); })));
  };
  draw(chosen);
}

const arrow = { higher: " ↑", lower: " ↓", neither: "" };
const shown = (value, metric) => value.toFixed(metric.digits);
const signed = (value, metric) => (value > 0 ? "+" : "") + shown(value, metric);
const interval = (ci, text) => (ci ? `[${text(ci[0])}, ${text(ci[1])}]` : "one picture");

/* ---- summary */

function intervalPicture(entry, all) {
  const ends = all.flatMap((one) => (one ? one.ci95 || [one.mean, one.mean] : []));
  const low = Math.min(...ends), span = Math.max(...ends) - low || 1;
  const x = (value) => 2 + (96 * (value - low)) / span;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (name, properties) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
    svg.append(node);
  };
  svg.setAttribute("class", "interval");
  svg.setAttribute("aria-hidden", "true");
  const [from, to] = entry.ci95 || [entry.mean, entry.mean];
  part("line", { x1: x(from) + "%", x2: x(to) + "%", y1: 5, y2: 5 });
  part("circle", { cx: x(entry.mean) + "%", cy: 5, r: 4 });
  return svg;
}

/* What the summary shows of a method: means, then figures of it as a whole. */
function summaryOf(which, name) {
  const whole = (data.whole && data.whole[which === "all" ? "methods" : which]) || {};
  return { ...data.summary[which][name], ...whole[name] };
}

function meanCell(entry, column, metric, winner, count) {
  if (!entry) return make("td", {}, "–");
  const value = make("span", { className: winner ? "best" : "" },
    shown("value" in entry ? entry.value : entry.mean, metric));
  const few = entry.n === count ? null : make("small", { className: "bad" }, `of ${entry.n} pictures`);
  if ("value" in entry) return make("td", {}, value, make("small", {}, "as a whole"), few);
  return make("td", {}, value, make("small", {}, interval(entry.ci95, (x) => shown(x, metric))),
    few, intervalPicture(entry, column));
}

function drawMeans(which) {
  const all = [...data.metrics, ...data.sets];
  const head = make("tr", {}, make("th", {}, "method"), make("th", {}, "pictures"),
    ...all.map((m) => make("th", { title: m.protocol }, m.name + arrow[m.better])));
  const figures = data.methods.map((method) => summaryOf(which, method.name));
  const counts = data.methods.map((m) => (which === "common" ? data.commonPictures : m.pictures));
  // Figures of different pictures do not compete.
  const mixed = which === "all" && data.summary.common;
  const columns = all.map((m) => figures.map((own) => own[m.name] || null));
  const isBest = (method, metric) => !mixed && data.best[metric.name] === method.name;
  const rows = data.methods.map((method, i) => make("tr", {},
    make("th", { scope: "row" }, method.name), make("td", {}, String(counts[i])),
    ...all.map((metric, k) =>
      meanCell(columns[k][i], columns[k], metric, isBest(method, metric), counts[i]))));
  at("means").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  at("means-mixed").hidden = !mixed;
}

function summary() {
  at("means-note").textContent =
    `Mean and 95 % interval (${data.ci}). Underlined: clearly better than each other method ` +
    "by the paired differences; nothing where none is. ↑ more is better, ↓ less." +
    (data.sets.length ? " As a whole: one figure of all pictures as a set, without an interval." : "");
  if (data.summary.common) {
    at("means-mixed").textContent =
      "Each method on its own pictures: these means do not compare with each other.";
  }
  if (data.summary.common && data.commonPictures) {
    choice(at("which"), [
      ["common", data.commonPictures === 1 ? "the picture that all methods have"
        : `the ${data.commonPictures} pictures that all methods have`],
      ["all", "all that each method has"]], "common", drawMeans);
    drawMeans("common");
  } else {
    at("which").remove();
    drawMeans("all");
  }
}

/* ---- differences */

function pairedCell(method, baseline, metric) {
  const found = data.differences.find((d) => d.metric === metric.name &&
    ((d.a === method && d.b === baseline) || (d.b === method && d.a === baseline)));
  if (!found) return make("td", {}, "–");
  const turn = found.a === method ? 1 : -1;
  const ci = found.ci95 && found.ci95.map((x) => x * turn).sort((x, y) => x - y);
  const [above, below] = turn > 0 ? [found.above, found.below] : [found.below, found.above];
  const rises = metric.better === "higher";
  let verdict = "", ahead = `higher on ${above} of ${found.n}`;
  if (metric.better !== "neither") {
    const clear = ci && (ci[0] > 0 || ci[1] < 0);
    verdict = !clear ? "no clear difference" : ci[0] > 0 === rises ? "better" : "worse";
    ahead = `ahead on ${rises ? above : below} of ${found.n}`;
  }
  const look = { better: "good", worse: "bad" }[verdict] || "";
  return make("td", {}, make("span", { className: look }, signed(found.mean * turn, metric)),
    make("small", {}, interval(ci, (x) => signed(x, metric))),
    make("small", { className: look }, verdict), make("small", {}, ahead));
}

function drawPaired(baseline) {
  const head = make("tr", {}, make("th", {}, `method − ${baseline}`),
    ...data.metrics.map((m) => make("th", {}, m.name + arrow[m.better])));
  const rows = data.methods.filter((m) => m.name !== baseline).map((method) =>
    make("tr", {}, make("th", { scope: "row" }, method.name),
      ...data.metrics.map((metric) => pairedCell(method.name, baseline, metric))));
  at("paired").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function differences() {
  if (data.methods.length < 2 || !data.metrics.length) {
    at("differences").remove();
    document.querySelector('nav a[href="#differences"]').remove();
    return;
  }
  at("paired-mixed").hidden = !data.summary.common;
  const select = at("baseline");
  select.append(...data.methods.map((m) => make("option", { value: m.name }, m.name)));
  select.onchange = () => drawPaired(select.value);
  drawPaired(data.methods[0].name);
}

/* ---- crops */

function caption(label, image) {
  const method = data.methods.findIndex((m) => m.name === label);
  const lines = [make("b", {}, label)];
  if (method >= 0) {
    for (const [k, metric] of data.metrics.entries()) {
      const value = image.values[method][k];
      if (value === null) continue;
      lines.push(make("small", {}, `${metric.name} ${shown(value, metric)}`));
    }
  }
  return make("figcaption", {}, ...lines);
}

function card(crop, i) {
  const image = data.images.find((one) => one.name === crop.name);
  const place = make("span", { className: "place" });
  if (image.thumb) {
    const box = make("i");
    ["left", "top", "width", "height"].forEach((side, k) => {
      box.style[side] = `${100 * crop.box[k]}%`;
    });
    place.append(make("img", { src: image.thumb, alt: "" }), box);
  }
  const panels = crop.panels.map(([label, source]) => {
    const picture = make("img", { src: source, alt: `${crop.name}, ${label}` });
    picture.dataset.width = crop.size[0];
    picture.dataset.height = crop.size[1];
    return make("figure", {}, make("div", { className: "frame" }, picture), caption(label, image));
  });
  return make("article", { className: "card", id: `crop-${i}` },
    make("div", { className: "head" }, place, make("h3", {}, crop.name)),
    make("div", { className: "panels" }, ...panels));
}

function zoom(times) {
  for (const picture of document.querySelectorAll("figure img")) {
    picture.style.width = `${picture.dataset.width * times}px`;
    picture.style.height = `${picture.dataset.height * times}px`;
  }
}

function crops() {
  if (!data.crops.length) {
    at("crops").remove();
    document.querySelector('nav a[href="#crops"]').remove();
    return;
  }
  at("crops-note").textContent = `${data.crops.length} pictures, the most different first; ` +
    "each cut where its methods differ most. The pixels are those of the results, the figures " +
    "those of whole pictures.";
  at("cards").append(...data.crops.map(card));
  choice(at("zoom"), [[1, "1 : 1"], [2, "2 : 1"], [4, "4 : 1"]], 1, zoom);
  zoom(1);
}

/* ---- pictures */

/*PICTURES.JS*/

/* ---- protocol */

function protocol() {
  at("title").textContent = data.title;
  document.title = data.title;
  at("about").textContent = data.about;
  const entries = [
    ...[...data.metrics, ...data.sets].map((m) => [m.name, m.protocol]), ["interval", data.ci], ["pictures", data.pairing],
    ...data.methods.map((m) => [m.name, `${m.pictures} pictures of ${m.source}`]),
    ["written by", data.version]];
  at("lines").append(...entries.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  if (data.problems.length) {
    at("problems").append(make("h3", {}, "What could not be measured"),
      make("ul", {}, ...data.problems.map((line) => make("li", {}, line))));
  }
}

protocol();
summary();
differences();
crops();
pictures();
