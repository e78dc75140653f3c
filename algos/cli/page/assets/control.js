// An episode of control: observations, actions, rewards and values over its steps.

const MOST_STEPS = 5000;

function controlOf(all) {
  const { observations, actions, size } = all.control;
  const length = Math.min(MOST_STEPS, all.rewards.length);
  const xs = Array.from({ length }, (_, step) => (all.first || 0) + step);
  const line = (label, values, order) => ({ label, colour: COLOURS[order % COLOURS.length], dash: order >= COLOURS.length ? [6, 4] : undefined, xs, ys: values.slice(0, length).map((value) => (Number.isFinite(number(value)) ? number(value) : null)), points: length < 3 ? true : undefined });
  const parts = [];
  const options = { xLabel: "step", sync: "episode" };
  if (observations.length) {
    const text = size > observations.length ? `Observation, the first ${observations.length} of ${size} numbers` : "Observation";
    parts.push(chart(text, observations.map((values, k) => line(`o${k}`, values, k)), { ...options, height: 240 }));
  }
  if (actions.length) parts.push(chart("Action", actions.map((values, k) => line(actions.length > 1 ? `a${k}` : "action", values, k)), { ...options, stepped: true }));
  parts.push(chart("Reward", [line("reward", all.rewards, 0)], options));
  if (all.values) parts.push(chart("Value, as the critic had it", [line("value", all.values, 0)], options));
  if (all.logprobs) parts.push(chart("Log-probability of the action", [line("log-probability", all.logprobs, 0)], options));
  const cut = all.rewards.length > length ? el("p", { class: "dim" }, `The first ${count(length, "step")} of ${all.rewards.length.toLocaleString("en")}.`) : null;
  return el("section", {}, framesOf(all), el("h3", {}, "Steps"), cut, el("div", { class: "charts" }, parts));
}

// Frames of an episode that was rendered again when the page was made.
function framesOf(all) {
  if (!all.frames) return null;
  const picture = ([step, png]) => el("figure", {}, el("img", { src: `data:image/png;base64,${png}`, alt: `Frame after ${count(step, "step")}` }), el("figcaption", {}, `step ${step}`));
  return el("section", {}, el("h3", {}, "Frames"), scroller(el("div", { class: "frames" }, all.frames.map(picture)), "Frames"));
}
