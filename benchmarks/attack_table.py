"""The figures of the attack benchmark as text."""

from typing import Any


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    seeds = len(figures["seeds"])
    about = f"{figures['task']}: {figures['devices']} devices, {figures['versions']} versions, {seeds} seeds"
    rows = [f"{about}; {figures['seconds']} s"]
    if "cost" in figures:
        cost = figures["cost"]
        rows.append(
            f"no attacker: {cost['bounded']:.3f} with the bounds, {cost['no_bounds']:.3f} without; difference "
            f"{cost['mean']:+.4f}, 95 % interval {cost['low']:+.4f} to {cost['high']:+.4f}; "
            f"mean scale {cost['scale_mean']:.3f}, {cost['refused']} refused"
        )
    if "attacks" in figures:
        rows += ["", f"{'one hostile device':<48} {'final':>6} {'silent':>8} {'worst':>7} {'dip':>6} {'scale':>6}"]
        rows += [
            f"{name:<48} {one['accuracy']:>6.3f} {one['silent']:>8.3f} {-one['lost_worst']:>+7.3f} "
            f"{-one['dip_worst']:>+6.2f} {one['honest_scale_mean']:>6.2f}"
            for name, one in figures["attacks"].items()
        ]
    return "\n".join(rows)
