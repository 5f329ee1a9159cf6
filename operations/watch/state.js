// The state of each task, and how messages change it. Pure: times (milliseconds) are arguments. Everything that messages
// could make grow is bounded.

import { isName, readEvaluation, readManifest, readPresence, readStatus } from "./messages.js";
import { DecodeError } from "./frame.js";
import { ACCURACY, isSame, isShare, isShowable } from "./metric.js";

export const DEVICES_MAX = 4096;
export const TASKS_MAX = 16;
const SHARDS_MAX = 64;
const POINTS_MAX = 2048;
const COMMITS_MAX = 1024;

export const STALE_VERSIONS = 5;

export class Watch {
  // `only`: the task to show; messages of others are ignored. null: every task.
  constructor(root, only = null) {
    this.root = root;
    this.only = only;
    this.tasks = new Map();
    this.unreadable = { count: 0, last: "" };
  }

  // Handles one message; never throws.
  take({ topic, payload }, now) {
    const read = this.parsed(topic);
    if (read === null || payload.length === 0) return; // not one of our topics, or a retained message was deleted
    try {
      READERS[read.kind](this.task(read.task), payload, read.last, now);
    } catch (error) {
      this.failed(`${topic.slice(0, 120)}: ${error instanceof DecodeError ? error.message : "cannot be read"}`);
    }
  }

  failed(text) {
    this.unreadable = { count: this.unreadable.count + 1, last: text.slice(0, 300) };
  }

  parsed(topic) {
    if (!topic.startsWith(`${this.root}/`)) return null;
    const [task, kind, last, ...more] = topic.slice(this.root.length + 1).split("/");
    const hasLast = kind !== "model";
    if (this.only !== null && task !== this.only) return null;
    if (!isName(task) || !Object.hasOwn(READERS, kind) || more.length || hasLast !== (last !== undefined)) return null;
    return !hasLast || isName(last) ? { task, kind, last } : null;
  }

  task(name) {
    if (!this.tasks.has(name)) {
      if (this.tasks.size >= TASKS_MAX) throw new DecodeError(`more than ${TASKS_MAX} tasks`);
      this.tasks.set(name, emptyTask());
    }
    return this.tasks.get(name);
  }
}

function emptyTask() {
  return { manifest: null, manifestSeen: null, commits: new Map(), shards: new Map(), presence: new Map(), discards: new Map(), evaluators: new Set(), main: ACCURACY, newestPoint: -1, points: new Map() };
}

const READERS = {
  model(task, payload, _last, now) {
    const manifest = readManifest(payload);
    if (task.manifest && task.manifest.at > manifest.at) return; // arrived out of order
    task.manifest = manifest;
    task.manifestSeen = now;
    task.commits.set(manifest.version, manifest.at);
    if (task.commits.size > COMMITS_MAX) task.commits.delete(task.commits.keys().next().value);
  },
  presence(task, payload, device) {
    const presence = readPresence(payload);
    if (!task.presence.has(device) && task.presence.size >= DEVICES_MAX) return;
    task.presence.set(device, presence.status);
    task.discards.delete(device);
    if (presence.discarded) task.discards.set(device, presence.discarded);
    if (presence.isEvaluator) task.evaluators.add(device);
  },
  evaluation(task, payload, device, now) {
    const told = readEvaluation(payload);
    const value = told.metrics.get(told.main.name);
    if (told.device !== device || !isShowable(told.main, value)) return;
    addPoint(task, { version: told.version, evaluator: device, main: told.main, value, at: task.commits.get(told.version) ?? now / 1000 });
  },
  aggregator(task, payload, shard, now) {
    const status = readStatus(payload);
    if (!task.shards.has(shard) && task.shards.size >= SHARDS_MAX) throw new DecodeError(`more than ${SHARDS_MAX} shards`);
    const before = task.shards.get(shard);
    // The will has neither summary nor counters: the known ones stay.
    const counters = status.counters.size ? status.counters : (before?.counters ?? status.counters);
    const summary = status.summary ?? before?.summary ?? null;
    const summarySeen = status.summary ? now : (before?.summarySeen ?? now);
    task.shards.set(shard, { ...status, counters, summary, summarySeen });
    for (const point of status.summary?.evaluations ?? []) addPoint(task, point);
  },
};

// The task's main metric is that of the newest evaluated version.
function addPoint(task, point) {
  if (point.version >= task.newestPoint) {
    task.newestPoint = point.version;
    task.main = point.main;
  }
  task.points.set(`${point.version} ${point.evaluator}`, point);
  if (task.points.size > POINTS_MAX) {
    const kept = [...task.points].sort(([, one], [, other]) => other.version - one.version).slice(0, POINTS_MAX / 2);
    task.points = new Map(kept);
  }
}

// What the page shows of a task. `now`: the page's clock, milliseconds.
export function shown(task, now) {
  const shards = [...task.shards.values()];
  const total = (of) => shards.reduce((sum, shard) => sum + (of(shard) ?? 0), 0);
  const summaries = shards.filter((shard) => shard.summary);
  const rows = devices(task, summaries, now);
  const learners = rows.filter((row) => !row.isEvaluator);
  const points = curve(task);
  const version = Math.max(-1, task.manifest?.version ?? -1, ...shards.map((shard) => shard.version));
  return {
    version,
    manifest: task.manifest,
    hasAggregator: shards.length > 0,
    isAggregatorOnline: shards.some((shard) => shard.status === "online"),
    hasSummary: summaries.length > 0,
    main: task.main,
    isShare: isShare(task.main, points.flatMap((point) => point.each)),
    curve: points,
    histogram: histogram(summaries),
    devices: rows,
    online: learners.filter((row) => row.presence === "online").length,
    known: Math.max(total((shard) => shard.counters.get("devices")), learners.length),
    evaluators: rows.length - learners.length,
    merged: total((shard) => shard.counters.get("merged")),
    duplicate: total((shard) => shard.counters.get("duplicate")),
    refused: total((shard) => shard.counters.get("refused")),
    updatesPerMinute: summaries.reduce((sum, shard) => sum + shard.summary.updatesPerMinute, 0),
    bytesUp: summaries.reduce((sum, shard) => sum + shard.summary.bytesUp, 0),
    bytesDown: summaries.reduce((sum, shard) => sum + shard.summary.bytesDown, 0),
    sinceSeconds: summaries.length ? Math.min(...summaries.map((shard) => shard.summary.since)) : null,
    agedSeconds: task.manifest === null ? null : age(task.manifest.at, task, summaries, now),
  };
}

// Seconds since `at`, by the aggregator's clock if it is known, so that the two clocks need not agree.
function age(at, task, summaries, now) {
  const newest = summaries.reduce((best, shard) => (best === null || shard.summarySeen > best.summarySeen ? shard : best), null);
  const theirs = newest === null ? now / 1000 : newest.summary.at + (now - newest.summarySeen) / 1000;
  return Math.max(0, theirs - at);
}

// Mean of the main metric of each version over its evaluators, oldest first, with each evaluator's value.
function curve(task) {
  const versions = new Map();
  for (const point of task.points.values()) {
    if (!isSame(point.main, task.main)) continue;
    const found = versions.get(point.version) ?? { version: point.version, at: point.at, each: [] };
    found.each.push(point.value);
    versions.set(point.version, found);
  }
  return [...versions.values()]
    .sort((one, other) => one.version - other.version)
    .map((found) => ({ ...found, value: found.each.reduce((sum, value) => sum + value, 0) / found.each.length }));
}

function histogram(summaries) {
  const buckets = new Map();
  for (const { summary } of summaries) {
    for (const { least, updates } of summary.staleness) buckets.set(least, (buckets.get(least) ?? 0) + updates);
  }
  return [...buckets].sort(([one], [other]) => one - other).map(([least, updates]) => ({ least, updates }));
}

// Evaluators have a row as well, but do not count as devices.
function devices(task, summaries, now) {
  const evaluators = new Set([...task.evaluators, ...[...task.points.values()].map((point) => point.evaluator)]);
  const rows = new Map();
  for (const [device, presence] of task.presence) rows.set(device, { device, presence, outcome: null, staleness: null, seconds: null, merged: null });
  for (const shard of summaries) {
    for (const seen of shard.summary.devices) {
      const seconds = Math.max(0, shard.summary.at - seen.at + (now - shard.summarySeen) / 1000);
      const presence = rows.get(seen.device)?.presence ?? null;
      rows.set(seen.device, { device: seen.device, presence, outcome: seen.outcome, staleness: seen.staleness, seconds, merged: seen.merged });
    }
  }
  for (const row of rows.values()) row.discarded = task.discards.get(row.device) ?? "";
  for (const row of rows.values()) row.isEvaluator = row.outcome === null && evaluators.has(row.device);
  return [...rows.values()].sort((one, other) => one.device.localeCompare(other.device, "en", { numeric: true }));
}
