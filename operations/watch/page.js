// Joins the parts of the page: configuration, connection, state, and what is drawn.

import { drawCurve, drawHistogram, sayNothing, ticks } from "./charts.js";
import { ACCURACY, axisRange, best, direction, isSame, tickTexts, title, valueText } from "./metric.js";
import { Client } from "./mqtt.js";
import { STALE_VERSIONS, Watch, shown } from "./state.js";

const DRAW_MILLISECONDS = 200;
const TICK_MILLISECONDS = 1000;
const READ_MILLISECONDS = 3000; // retained messages may still be arriving for this long after connecting
const ROWS_MAX = 200;

const find = (id) => document.getElementById(id);
const plural = (count, what) => `${grouped(count)} ${what}${count === 1 ? "" : "s"}`;
const grouped = (number) => number.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

let config = null;
let watch = null;
let client = null;
let connection = { name: "connecting", text: "" };
let chosen = null;
let seenTask = null;
let drawn = "";
let isWaitingToDraw = false;
let lastMessageAt = null;
let isServed = true;

// -- words

function size(bytes) {
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (bytes >= unit) return `${(bytes / unit).toFixed(bytes / unit < 10 ? 2 : 1)} ${name}`;
  return `${bytes} B`;
}

// A time before now, or, once a demo has ended, before its end.
function ago(seconds) {
  const hasEnded = connection.name === "ended";
  const before = hasEnded ? "before the end" : "ago";
  if (seconds < 1.5) return hasEnded ? "at the end" : "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ${before}`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ${before}`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ${before}`;
  return `${Math.round(seconds / 86400)} days ${before}`;
}

// The state: its name for the style sheet, a title, and a sentence.
function situation(view, now) {
  const seen = lastMessageAt === null ? "" : ` The page shows the state of ${moment(lastMessageAt)}.`;
  if (connection.name === "ended") return ["ended", "The demo has ended", `The page shows its final state, of ${moment(1000 * config.ended_at)}. Its report is ${config.report}.`];
  if (connection.name !== "connected" && !isServed) return ["ended", "The demo is gone", `Neither the demo nor its broker answers.${seen} If it finished, its report is ${config.report}.`];
  if (connection.name === "refused") return ["refused", "Connection refused", `${capital(connection.text)}.`];
  if (connection.name === "connecting") return ["connecting", "Connecting", config ? `Connecting to ${config.websocket}.${seen}` : "Reading the broker's address."];
  if (connection.name === "waiting") {
    const left = Math.max(0, Math.ceil((connection.until - now) / 1000));
    return ["waiting", "No connection", `${capital(connection.text)}. Next try ${left ? `in ${left} s` : "now"}.${seen}`];
  }
  if (connection.refused?.length) return ["refused", "Not allowed to read", `This user may not read ${connection.refused[0]}.`];
  const isReading = now < connection.at + READ_MILLISECONDS;
  if (isReading && !view?.hasAggregator) return ["connecting", "Connected", "Reading the retained messages."];
  if (view === null) return ["quiet", "Connected, no data yet", `Nothing has been published below ${place()}. Start an aggregator with this root and task.`];
  if (!view.hasAggregator) return ["quiet", "No aggregator", "The broker has no status message of an aggregator for this task."];
  if (!view.isAggregatorOnline) return ["quiet", "Aggregator offline", "Devices keep their updates until it is back. The page shows its last status."];
  if (!view.hasSummary) return ["live", "Live", "This aggregator sends no summary, so the history starts when the page was opened."];
  return ["live", "Live", `Newest message ${lastMessageAt === null ? "none yet" : ago((now - lastMessageAt) / 1000)}.`];
}

const moment = (milliseconds) => new Date(milliseconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const place = () => `${config.root}/${config.task ?? "…"}`;

// -- drawing

function put(id, text) {
  const host = find(id);
  if (host.textContent !== text) host.textContent = text;
}

function draw() {
  isWaitingToDraw = false;
  const now = connection.name === "ended" ? 1000 * config.ended_at : Date.now();
  chooseTask();
  const task = watch?.tasks.get(chosen);
  if (seenTask !== chosen) clear();
  seenTask = chosen;
  const view = task ? shown(task, now) : null;
  drawSituation(view, now);
  if (view === null) {
    drawNothing();
    return;
  }
  put("task", chosen);
  document.title = view.curve.length ? `${valueText(view.curve.at(-1).value, view.isShare)} · ${chosen}` : chosen;
  drawFigures(view);
  drawCounts(view);
  drawDevices(view);
  const picture = JSON.stringify([chosen, view.main, view.curve, view.histogram, document.body.clientWidth]);
  if (picture !== drawn) {
    drawn = picture;
    drawPlots(view);
  }
}

function drawSituation(view, now) {
  const [state, words, sentence] = situation(view, now);
  find("situation").dataset.state = state;
  put("state", words);
  put("explanation", sentence);
  if (config) put("place", config.websocket);
  const { count, last } = watch?.unreadable ?? { count: 0, last: "" };
  const hasMessages = lastMessageAt !== null || connection.name === "ended";
  const none = hasMessages ? "All messages so far could be decoded." : "No message has arrived yet.";
  put("unreadable", count ? `${plural(count, "message")} could not be decoded and had no effect. The last: ${last}` : none);
  find("unreadable").classList.toggle("bad", count > 0);
}

function chooseTask() {
  const names = [...(watch?.tasks.keys() ?? [])].sort();
  if (chosen === null || !names.includes(chosen)) chosen = names[0] ?? null;
  const select = find("tasks");
  if (names.join() !== [...select.options].map((option) => option.value).join()) {
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    find("choice").hidden = names.length < 2;
  }
}

// The texts without data, to clear the page when another task is chosen.
const BLANKS = [...document.querySelectorAll(".figure [id], .plots h2[id], .plots .note, dd, #devices-note")].map((host) => [host.id, host.textContent]);

function clear() {
  for (const [id, text] of BLANKS) put(id, text);
  for (const host of document.querySelectorAll(".plot, #devices")) host.replaceChildren();
  drawn = "";
}

function drawNothing() {
  for (const id of ["by-version", "by-time", "staleness"]) {
    if (!find(id).firstChild) sayNothing(find(id), "No data yet.");
  }
}

function drawFigures(view) {
  const newest = view.curve.at(-1);
  if (newest) {
    const record = best(view.main, view.curve);
    const evaluators = newest.each.length > 1 ? `, mean of ${newest.each.length} evaluators` : "";
    const way = isSame(view.main, ACCURACY) ? "" : ` · ${direction(view.main)}`;
    put("metric-title", title(view.main));
    put("by-version-title", `${title(view.main)} over versions`);
    put("by-time-title", `${title(view.main)} over time`);
    put("metric", valueText(newest.value, view.isShare));
    put("metric-note", `version ${newest.version}${evaluators} · best ${valueText(record.value, view.isShare)} at version ${record.version}${way}`);
  }
  if (view.version >= 0) {
    put("version", grouped(view.version));
    const signed = view.manifest?.isSigned ? ", signed" : "";
    put("version-note", view.agedSeconds === null ? "Its manifest has not arrived." : `published ${ago(view.agedSeconds)}${signed}`);
  }
  if (view.hasAggregator) {
    put("merged", grouped(view.merged));
    put("merged-note", view.hasSummary ? `${grouped(view.updatesPerMinute)} in the last minute` : "since the ledger began");
  }
  if (view.devices.length || view.hasAggregator) {
    put("online", grouped(view.online));
    put("online-note", `of ${grouped(view.known)} known`);
  }
}

function drawCounts(view) {
  if (!view.hasAggregator) return;
  put("count-merged", grouped(view.merged));
  put("count-duplicate", grouped(view.duplicate));
  put("count-refused", grouped(view.refused));
  if (!view.hasSummary) return;
  put("rate", grouped(view.updatesPerMinute));
  put("bytes-up", size(view.bytesUp));
  put("bytes-down", size(view.bytesDown));
}

function drawPlots(view) {
  drawMetric(view);
  const total = view.histogram.reduce((sum, bucket) => sum + bucket.updates, 0);
  if (!total) {
    sayNothing(find("staleness"), "No update has been merged yet.");
    return;
  }
  const stale = view.histogram.reduce((sum, bucket) => sum + (bucket.least >= STALE_VERSIONS ? bucket.updates : 0), 0);
  put("staleness-note", `Versions published since the update's base. ${percent(stale / total)} of the updates were ${STALE_VERSIONS} or more versions behind.`);
  drawHistogram(find("staleness"), view.histogram, { label: `Histogram of the staleness of ${plural(total, "update")}; ${percent(stale / total)} were ${STALE_VERSIONS} or more versions behind`, stale: STALE_VERSIONS });
}

function drawMetric({ main, isShare, curve }) {
  if (!curve.length) {
    sayNothing(find("by-version"), "No version has been evaluated yet. Start an evaluator: asyncfedkd device evaluate");
    sayNothing(find("by-time"), "No version has been evaluated yet.");
    return;
  }
  const [first, newest] = [curve[0], curve.at(-1)];
  const told = (id, usual) => (text) => put(id, text ?? usual);
  const text = (value) => valueText(value, isShare);
  const yTexts = (places) => tickTexts(places, isShare);
  const range = axisRange(curve.flatMap((each) => [each.value, ...each.each]), isShare); // the same axis for both plots, so that they can be compared
  const byVersion = { id: "by-version", usual: `${plural(curve.length, "version")} evaluated, ${first.version} to ${newest.version}.` };
  drawCurve(find(byVersion.id), curve.map((each) => ({ ...each, x: each.version })), {
    label: `${title(main)} over versions ${first.version} to ${newest.version}, newest ${text(newest.value)}`,
    title: "version",
    range,
    yTexts,
    xTicks: (low, high, wanted) => ticks(low, high, wanted, 1),
    xText: (tick) => String(tick),
    reading: (point) => `Version ${point.version}: ${text(point.value)}`,
    tell: told("by-version-note", byVersion.usual),
  });
  put("by-version-note", byVersion.usual);
  // Version 0 may be much older than the first device: training time starts with version 1.
  const timed = curve.filter((each) => each.version > 0 || curve.length === 1).sort((one, other) => one.at - other.at);
  const began = timed[0].at;
  const [unit, unitName] = timeUnit(timed.at(-1).at - began);
  const usual = `At the time each version was published; ${new Date(1000 * began).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })} is 0.`;
  drawCurve(find("by-time"), timed.map((each) => ({ ...each, x: (each.at - began) / unit })), {
    label: `${title(main)} over ${((timed.at(-1).at - began) / unit).toFixed(1)} ${unitName}, newest ${text(newest.value)}`,
    title: `time since version ${timed[0].version}, ${unitName}`,
    range,
    yTexts,
    xTicks: (low, high, wanted) => ticks(low, high, wanted),
    xText: (tick) => String(tick),
    reading: (point) => `After ${point.x.toFixed(1)} ${unitName}, version ${point.version}: ${text(point.value)}`,
    tell: told("by-time-note", usual),
  });
  put("by-time-note", usual);
}

function timeUnit(seconds) {
  if (seconds < 180) return [1, "s"];
  if (seconds < 3 * 3600) return [60, "min"];
  return seconds < 72 * 3600 ? [3600, "h"] : [86400, "days"];
}

function drawDevices(view) {
  const rows = view.devices.slice(0, ROWS_MAX);
  const stale = view.devices.filter(isStale).length;
  const left = view.known + view.evaluators - rows.length;
  const parts = [stale ? `The newest update of ${plural(stale, "device")} was ${STALE_VERSIONS} or more versions behind.` : `No device's newest update was ${STALE_VERSIONS} or more versions behind.`];
  if (left > 0) parts.push(`${grouped(left)} more are not shown; these are the newest.`);
  put("devices-note", rows.length ? parts.join(" ") : "No device has been seen yet.");
  const body = find("devices");
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) for (let row = body.insertRow(), cell = 0; cell < 6; cell += 1) row.insertCell();
  rows.forEach((row, index) => fillRow(body.rows[index].cells, row));
  const table = body.closest(".scroll");
  const isCut = table.scrollWidth > table.clientWidth;
  find("devices-hint").hidden = !isCut;
  table.classList.toggle("cut", isCut);
}

const isStale = (row) => row.staleness !== null && row.staleness >= STALE_VERSIONS;

function fillRow(cells, row) {
  const fill = (index, text, kind = "") => {
    if (cells[index].textContent !== text) cells[index].textContent = text;
    if (cells[index].className !== kind) cells[index].className = kind;
  };
  const presence = row.presence ?? "unknown";
  const number = (value) => (value === null ? "number none" : "number");
  fill(0, row.device);
  fill(1, presence, presence);
  fill(2, row.staleness === null ? "–" : String(row.staleness), `${number(row.staleness)}${isStale(row) ? " stale" : ""}`);
  fill(3, row.merged === null ? "–" : grouped(row.merged), number(row.merged));
  fill(4, row.seconds === null ? "–" : ago(row.seconds), number(row.seconds));
  cells[5].title = row.discarded;
  if (row.discarded) fill(5, `discards its rounds: ${row.discarded}`, "refused");
  else fill(5, row.outcome ?? (row.isEvaluator ? "evaluates only" : "none yet"), row.outcome ?? "none");
}

function drawSoon() {
  if (isWaitingToDraw) return;
  isWaitingToDraw = true;
  setTimeout(draw, DRAW_MILLISECONDS);
}

// -- the connection

function connect(username, password) {
  client?.stop();
  const task = config.task ?? "+";
  client = new Client({
    url: config.websocket,
    username,
    password,
    filters: ["model", "presence/+", "evaluation/+", "aggregator/+"].map((rest) => `${config.root}/${task}/${rest}`),
    on: {
      message(message) {
        lastMessageAt = Date.now();
        watch.take(message, lastMessageAt);
        drawSoon();
      },
      state(state) {
        const now = Date.now();
        connection = { ...state, at: now, until: now + 1000 * (state.seconds ?? 0) };
        if (state.name === "refused") askWho();
        else if (state.name === "connected") find("login").hidden = true;
        drawSoon();
      },
      broken(text) {
        watch.failed(text);
        drawSoon();
      },
    },
  });
  client.start();
}

function askWho() {
  find("login").hidden = false;
  if (config.username && !find("username").value) find("username").value = config.username;
}

// Shows the final state of a demo.
function showEnd() {
  client?.stop();
  connection = { name: "ended" };
  find("login").hidden = true;
  if (config.messages.length) {
    watch = new Watch(config.root, config.task);
    for (const [topic, payload] of config.messages) watch.take({ topic, payload: Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0)) }, 1000 * config.ended_at);
  }
  draw();
}

const readConfig = async () => (await fetch("config.json", { cache: "no-store" })).json();

// A demo ends by itself: asks the program that serves the page, which ends soon after.
async function lookWhetherEnded() {
  const isQuiet = connection.name !== "connected" || find("situation").dataset.state === "quiet";
  if (!config?.report || connection.name === "ended" || !isQuiet) return;
  try {
    const told = await readConfig();
    isServed = true;
    if (told.ended_at !== null && connection.name !== "ended") {
      config = told;
      showEnd();
    }
  } catch {
    isServed = false;
  }
}

function tick() {
  lookWhetherEnded();
  drawSoon();
}

async function begin() {
  find("login").addEventListener("submit", (event) => {
    event.preventDefault();
    connect(find("username").value, find("password").value);
  });
  find("tasks").addEventListener("change", (event) => {
    chosen = event.target.value;
    drawSoon();
  });
  new ResizeObserver(drawSoon).observe(document.body);
  setInterval(tick, TICK_MILLISECONDS);
  try {
    const written = find("config"); // in a page that was saved with its final state
    config = written === null ? await readConfig() : JSON.parse(written.textContent);
  } catch {
    connection = { name: "refused", text: "the program that serves this page has ended; start it again and reload the page" };
    draw();
    return;
  }
  watch = new Watch(config.root, config.task);
  if (config.ended_at !== null) showEnd();
  else if (config.username !== null && config.password === null) {
    connection = { name: "refused", text: `the broker requires the password of ${config.username}` };
    askWho();
    draw();
  } else connect(config.username, config.password);
}

begin();
