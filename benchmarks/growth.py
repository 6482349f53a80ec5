"""What `python -m benchmarks.scale` measured, as fitted lines and as a table."""

from __future__ import annotations

import numpy as np

IMAGENET = 1_281_167


def fit(results: dict) -> dict:
    """Lines through the measurements, and what 1.28 M images would take."""
    counts = np.array([row["images"] for row in results["rows"]], float)
    lines = {}
    for name in ("seconds", "driver_seconds", "bytes", "again_seconds", "driver_mb", "worker_mb"):
        values = np.array([row[name] for row in results["rows"]], float)
        slope, start = np.polyfit(counts, values, 1, w=1 / np.sqrt(counts))
        lines[name] = {
            "per_image": float(slope),
            "at_0": float(start),
            "at_imagenet": float(start + slope * IMAGENET),
        }
    hours = {}
    if "workers" in results:
        one = 1 / results["workers"]["free_one"]  # everything is in it: decoding, estimator, engine
        driver = lines["driver_seconds"][
            "per_image"
        ]  # one process gathers, checks and writes: it sets a floor
        hours = {str(cores): IMAGENET * max(one / cores, driver) / 3600 for cores in (16, 64)}
    return {"lines": lines, "hours": hours}


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "| images | seconds | driver, MB | a worker, MB | cache, MB | no-op re-run, s | open, ms | reads/s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['images']:,} | {row['seconds']:.1f} | {row['driver_mb']:.0f} | {row['worker_mb']:.0f} | "
            f"{row['bytes'] / 1e6:.0f} | {row['again_seconds']:.1f} | {1e3 * row['open_seconds']:.0f} | "
            f"{row['reads']:,.0f} |"
        )
    fitted, million_rows = results["fit"]["lines"], results["million"]
    lines += [
        "",
        f"Tiny images, the `centre` estimator, masks of {results['side']}x{results['side']}, "
        f"{results['shard_size']:,} a shard, two workers "
        f"({results['machine']}). "
        f"Fitted to 1,281,167 images: {fitted['bytes']['at_imagenet'] / 1e9:.1f} GB, a no-op re-run in "
        f"{fitted['again_seconds']['at_imagenet']:.0f} s, {fitted['driver_mb']['at_imagenet']:.0f} MB in the "
        f"driver and {fitted['worker_mb']['at_imagenet']:.0f} MB in a worker. Engine overhead (neither decoding "
        f"nor estimator): {results['overhead']['overhead_ms']:.2f} ms an image. Opening a cache of 1,281,167 "
        f"rows: {million_rows['open_seconds']:.2f} s; random reads over 3,000 shards at `ulimit -n 256`: "
        f"{million_rows['reads_3000_shards']:,.0f} a second; listing 1,281,167 paths peaks at "
        f"{results['listing_mb']:.0f} MB.",
    ]
    if results["fit"]["hours"]:
        workers, hours = results["workers"], results["fit"]["hours"]
        lines += [
            "",
            f"With the real estimator on real images: {workers['one']:.1f} images/s with one worker, "
            f"{workers['two']:.1f} with two ({workers['ratio']:.2f} times; {workers['free_one']:.1f} and "
            f"{workers['free_two']:.1f}, {workers['free_ratio']:.2f} times, less the time that other programs "
            "held the cores). 1.28 M images at that speed: "
            f"{hours['16']:.1f} hours on 16 cores, {hours['64']:.1f} on 64 (scaled, not run; one driver alone "
            f"could take {1 / fitted['driver_seconds']['per_image']:,.0f} images/s, more with --part).",
        ]
    return "\n".join(lines)
