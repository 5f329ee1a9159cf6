"""The communication benchmark's figures as text."""

from typing import Any


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    budget = (
        f"{figures['task']}: {figures['devices']} devices, {figures['rounds']} rounds of each device, seeds "
        f"{figures['seeds']}; bytes per device; {figures['seconds']} s"
    )
    lines = [budget]
    for title, part in (("test persons", figures), ("further persons", figures.get("further"))):
        if part is None:
            continue
        lines.append(f"\n{title}: centralised {part['centralised']:.3f}")
        heads = (
            f"{'':2} {'':16} {'up':>11} {'down':>11} {'less':>8} {'to target':>11} {'less':>8} {'student':>8} "
            f"{'teacher':>8} {'an update':>9} {'bits':>6} {'entropy':>7} {'enc µs':>7} {'/epoch':>6} {'dec µs':>7} "
            f"{'peak kB':>8}"
        )
        lines.append(heads)
        lines += [_line(row) for row in part["rows"]]
    large = figures["large_vector"]
    lines.append(f"\ndecoding {large['parameters']:,} parameters, compared with an int8 dequantise-and-add pass:")
    lines += [
        f"   {row['name']:20} {row['update_bytes']:>7,} B, {row['to_entropy']:.3f} of the entropy, "
        f"{row['decode_microseconds']:>6.0f} µs, "
        f"{row['decode_to_int8_add']:.2f} times the {row['int8_add_microseconds']:.0f} µs of the pass"
        for row in large["rows"]
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    to_target = None
    if row["bytes_up_to_target"] is not None:
        to_target = row["bytes_up_to_target"] + row["bytes_down_to_target"]
    return (
        f"{row['letter']:2} {row['name']:16} {row['bytes_up']:>11,.0f} {row['bytes_down']:>11,.0f} "
        f"{text(row['reduction'], '.2%'):>8} {text(to_target, ',.0f'):>11} "
        f"{text(row['reduction_to_target'], '.2%'):>8} "
        f"{text(row['accuracy_student'], '.3f'):>8} {row['accuracy_teacher']:>8.3f} {row['update_bytes']:>9,.0f} "
        f"{row['bits_per_parameter']:>6.2f} {text(row['entropy_bits_per_parameter'], '.2f'):>7} "
        f"{row['encode_microseconds']:>7.0f} {row['encode_to_epoch']:>6.3f} "
        f"{row['decode_microseconds']:>7.0f} {row['peak_bytes'] / 1000:>8.0f}"
    )
