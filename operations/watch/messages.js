// The messages that the page reads, out of payloads: docs/wire-format.md as far as it is needed here. Each reader gives a
// plain object or throws a DecodeError that names the field. As the contract says, unknown keys are ignored, and a status
// of a newer program is read as OTHER.

import { DecodeError, unframed } from "./frame.js";
import { ACCURACY, METRIC_MAX } from "./metric.js";
import { Float, unpack } from "./msgpack.js";

const KIB = 1024;
const MANIFEST_LIMITS = { payloadBytesMax: 128 * KIB, contentBytesMax: 256 * KIB };
const CONTROL_LIMITS = { payloadBytesMax: 64 * KIB, contentBytesMax: 256 * KIB };
const SIGNED_SCHEMA = 128;
const SIGNATURES_MAX = 4;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const COUNT_MAX = 2 ** 53;
const MAP_ITEMS_MAX = 256;
const TEXT_CHARACTERS_MAX = 1024;
const NAME_CHARACTERS_MAX = 64;
const CHUNKS_MAX = 2048;
const STATUSES = ["online", "offline"];
const OUTCOMES = ["merged", "duplicate", "refused"];
export const OTHER = "other";

export const isName = (text) => NAME.test(text);

// A field's value by its key; `check` gives what it means or throws.
function field(map, key, check, fallback) {
  if (!map.has(key)) {
    if (fallback === undefined) throw new DecodeError(`key '${key}' is missing`);
    return fallback;
  }
  return check(map.get(key), `key '${key}'`);
}

function integer(value, what, least = 0, most = COUNT_MAX) {
  if (typeof value !== "number" || !(value >= least && value <= most)) throw new DecodeError(`${what}: no count from ${least} to ${most}`);
  return value;
}

const count = (value, what) => integer(value, what);

function float(value, what, least = -Infinity, most = Infinity) {
  const number = value instanceof Float ? value.value : value;
  if (typeof number !== "number" || !Number.isFinite(number) || number < least || number > most) throw new DecodeError(`${what}: no number in its range`);
  return number;
}

const seconds = (value, what) => float(value, what, 0);

function text(value, what) {
  if (typeof value !== "string" || value.length > 2 * TEXT_CHARACTERS_MAX || [...value].length > TEXT_CHARACTERS_MAX) throw new DecodeError(`${what}: no text within its limit`);
  return value;
}

function name(value, what) {
  if (typeof value !== "string" || !NAME.test(value)) throw new DecodeError(`${what}: no name`);
  return value;
}

function metricName(value, what) {
  if (!text(value, what) || [...value].length > NAME_CHARACTERS_MAX) throw new DecodeError(`${what}: no name of a metric`);
  return value;
}

function boolean(value, what) {
  if (typeof value !== "boolean") throw new DecodeError(`${what}: neither true nor false`);
  return value;
}

const told = (known) => (value, what) => (known.includes(text(value, what)) ? value : OTHER);

const bytesOf = (length) => (value, what) => {
  if (!(value instanceof Uint8Array) || (length !== null && value.length !== length)) throw new DecodeError(`${what}: not ${length ?? "some"} bytes`);
  return value;
};

const orNil = (check) => (value, what) => (value === null ? null : check(value, what));

const list = (most, check) => (value, what) => {
  if (!Array.isArray(value) || value.length > most) throw new DecodeError(`${what}: no list of at most ${most}`);
  return value.map((item) => check(item, what));
};

const mapOf = (check) => (value, what) => {
  if (!(value instanceof Map) || value.size > MAP_ITEMS_MAX) throw new DecodeError(`${what}: no map of at most ${MAP_ITEMS_MAX}`);
  for (const [key, item] of value) {
    text(key, what);
    check(item, what);
  }
  return value;
};

// Later elements are of a newer contract, and ignored.
const tuple = (...checks) => (value, what) => {
  if (!Array.isArray(value) || value.length < checks.length) throw new DecodeError(`${what}: no list of ${checks.length}`);
  return checks.map((check, index) => check(value[index], what));
};

// Absent: accuracy, as in the messages of the first release.
function mainMetric(map) {
  const [name, higherIsBetter] = field(map, "mm", tuple(metricName, boolean), [ACCURACY.name, ACCURACY.higherIsBetter]);
  return { name, higherIsBetter };
}

const opened = (payload, limits) => message(unpack(unframed(payload, limits)));

function message(map) {
  keyed(map, "message");
  if (map.size > MAP_ITEMS_MAX || map.repeats) throw new DecodeError("message: too many keys, or one that stands twice");
  return map;
}

function keyed(map, what) {
  if (!(map instanceof Map) || [...map.keys()].some((key) => typeof key !== "string")) throw new DecodeError(`${what}: no map with keys of text`);
  return map;
}

function checkSchema(map, newest) {
  const schema = field(map, "v", (value, what) => integer(value, what, 1));
  if (schema > newest) throw new DecodeError(`schema ${schema} is newer than ${newest}, which is the newest known here`);
}

// Plain, or signed: then a map around the bytes of the plain one. The page has no keys; it shows what it is told.
export function readManifest(payload) {
  let map = opened(payload, MANIFEST_LIMITS);
  const isSigned = map.get("v") === SIGNED_SCHEMA;
  if (isSigned) {
    if (!field(map, "sg", list(SIGNATURES_MAX, tuple(bytesOf(8), bytesOf(64)))).length) throw new DecodeError("no signature");
    map = message(unpack(field(map, "m", bytesOf(null))));
  }
  checkSchema(map, 2);
  field(map, "d", bytesOf(32));
  field(map, "l", bytesOf(8));
  field(map, "e", text, "");
  field(map, "ex", orNil(seconds), null);
  field(map, "c", list(CHUNKS_MAX, bytesOf(32)), []);
  return {
    isSigned,
    task: field(map, "t", name),
    version: field(map, "n", count),
    parent: field(map, "p", orNil(count)),
    snapshot: field(map, "sv", orNil(count), null),
    sizeBytes: field(map, "s", count),
    inline: field(map, "x", orNil(bytesOf(null)), null),
    delta: field(map, "dx", orNil(bytesOf(null)), null),
    deltaSizes: field(map, "ds", list(8, count), []),
    shards: field(map, "h", (value, what) => integer(value, what, 1, 65_536), 1),
    updateBytesMax: field(map, "u", (value, what) => integer(value, what, 1, Infinity)),
    at: field(map, "at", seconds),
  };
}

export function readPresence(payload) {
  const map = opened(payload, CONTROL_LIMITS);
  checkSchema(map, 1);
  const capability = field(map, "c", mapOf(text), null);
  const isEvaluator = capability?.get("role") === "evaluator"; // the offline form tells no capability
  const discarded = capability?.get("discarded") ?? ""; // why the device discards its own rounds
  return { status: field(map, "o", told(STATUSES)), firmware: field(map, "f", text, ""), isEvaluator, discarded };
}

export function readEvaluation(payload) {
  const map = opened(payload, CONTROL_LIMITS);
  checkSchema(map, 1);
  field(map, "g", bytesOf(32));
  const metrics = field(map, "m", mapOf(float));
  return {
    task: field(map, "t", name),
    device: field(map, "d", name),
    version: field(map, "n", count),
    samples: field(map, "s", count),
    main: mainMetric(map),
    metrics: new Map([...metrics].map(([key, value]) => [key, float(value, "metric")])),
  };
}

export function readStatus(payload) {
  const map = opened(payload, CONTROL_LIMITS);
  checkSchema(map, 1);
  return {
    status: field(map, "o", told(STATUSES)),
    version: field(map, "n", count),
    counters: field(map, "c", mapOf((value, what) => integer(value, what, -Infinity, Infinity)), new Map()),
    summary: field(map, "s", orNil(summary), null),
  };
}

function summary(value, what) {
  const map = keyed(value, what);
  const share = (value, what) => float(value, what, 0, 1);
  const number = (value, what) => float(value, what, -METRIC_MAX, METRIC_MAX);
  const accuracies = field(map, "e", list(128, tuple(count, name, share, seconds)), []);
  const measured = field(map, "ev", list(128, tuple(count, name, number, seconds)), []);
  const main = mainMetric(map);
  const staleness = field(map, "h", list(16, tuple(count, count)), []);
  const devices = field(map, "k", list(64, tuple(name, told(OUTCOMES), count, seconds, count)), []);
  return {
    at: field(map, "at", seconds),
    since: field(map, "a", seconds),
    evaluations: (map.has("mm") ? measured : accuracies).map(([version, evaluator, value, at]) => ({ version, evaluator, main, value, at })),
    staleness: staleness.map(([least, updates]) => ({ least, updates })),
    devices: devices.map(([device, outcome, stale, at, merged]) => ({ device, outcome, staleness: stale, at, merged })),
    updatesPerMinute: field(map, "r", count, 0),
    bytesUp: field(map, "u", count, 0),
    bytesDown: field(map, "w", count, 0),
  };
}
