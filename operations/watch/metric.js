// The main metric: its name and direction, and how its values are written. `wire_contract/main_metric.py` has the same
// rules.

export const METRIC_MAX = 1e100; // sums and axis ranges of values up to this one never overflow
export const ACCURACY = { name: "accuracy", higherIsBetter: true };

const SHARE_WORDS = new Set("accuracy auc auprc auroc coverage dice f1 iou jaccard precision recall sensitivity specificity".split(" "));
const ACRONYMS = new Map("AUC AUPRC AUROC BLEU CER F1 IoU MAE MAPE MSE NLL R2 RMSE SMAPE WER".split(" ").map((acronym) => [acronym.toLowerCase(), acronym]));

export const isSame = (one, other) => one.name === other.name && one.higherIsBetter === other.higherIsBetter;

// Whether these values are shown in percent: the name says shares, and they lie from 0 to 1.
export const isShare = ({ name }, values) =>
  (name.toLowerCase().match(/[a-z0-9]+/g) ?? []).some((word) => SHARE_WORDS.has(word)) && values.every((value) => value >= 0 && value <= 1);

// Whether an evaluator's value can be shown.
export const isShowable = (main, value) => value !== undefined && Math.abs(value) <= METRIC_MAX && !(isSame(main, ACCURACY) && (value < 0 || value > 1));

// The name in a sentence: macro_f1 is macro F1, mae is MAE.
export const words = ({ name }) => name.replaceAll("_", " ").replace(/[A-Za-z0-9]+/g, (word) => ACRONYMS.get(word.toLowerCase()) ?? word);

export const title = (main) => words(main).replace(/^./u, (letter) => letter.toUpperCase());

export const direction = ({ higherIsBetter }) => `${higherIsBetter ? "higher" : "lower"}\u00a0is\u00a0better`;

export const best = ({ higherIsBetter }, points) => points.reduce((found, each) => ((higherIsBetter ? each.value > found.value : each.value < found.value) ? each : found));

// A value: a share in percent, any other number with three significant digits.
export function valueText(value, asShare) {
  if (asShare) return `${(100 * value).toFixed(1)}\u00a0%`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  const decimals = size < 1000 ? Math.max(0, 2 - Math.floor(Math.log10(size || 1))) : 0;
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

// The text of each tick of an axis, in one unit and with as many decimals as the step between them needs.
export function tickTexts(ticks, asShare) {
  if (asShare) return ticks.map((tick) => `${Math.round(100 * tick)} %`);
  const largest = Math.max(...ticks.map(Math.abs));
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : largest || 1;
  if (largest >= 1e12 || (largest > 0 && largest < 1e-3)) {
    const digits = Math.min(6, Math.max(0, Math.ceil(Math.log10(largest / step) - 1e-9)));
    return ticks.map((tick) => (tick === 0 ? "0" : tick.toExponential(digits).replace("e+", "e")));
  }
  const [unit, letter] = [[1e9, "G"], [1e6, "M"], [1e4, "k"]].find(([least]) => largest >= least) ?? [1, ""];
  const divisor = letter === "k" ? 1e3 : unit;
  const decimals = Math.min(9, Math.max(0, -Math.floor(Math.log10(step / divisor) + 1e-9)));
  return ticks.map((tick) => (tick === 0 && letter ? "0" : `${(tick / divisor).toFixed(decimals)}${letter}`));
}

// The limits of an axis that shows these values. Shares: rounded outwards to tens of percent, and at least twenty points
// wide. Other numbers: a little more than they need, from 0 if they are positive and far apart.
export function axisRange(values, asShare) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (!asShare) {
    const span = most - least || Math.abs(most) * 0.2 || 1;
    const low = least >= 0 && least <= 2 * span ? 0 : least - 0.1 * span;
    return [low, most + 0.1 * span];
  }
  let low = Math.max(0, Math.floor(least * 10 + 1e-9) / 10);
  let high = Math.min(1, Math.ceil(most * 10 - 1e-9) / 10);
  if (high - low < 0.2) low = Math.max(0, high - 0.2);
  if (high - low < 0.2) high = low + 0.2;
  return [low, high];
}
