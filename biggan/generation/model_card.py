"""Writes the model card: README.md with the front matter that model hubs read, and a grid of samples."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from biggan.errors import printable_line
from biggan.files import write_atomically
from biggan.generation.sample import generate_rows
from biggan.generation.sampler import Sampler
from biggan.generation.trained_generator import truncation_key
from biggan.image_grid import evenly_spaced, grid

PICTURE = "samples.png"
MAX_ROWS, COLUMNS = 10, 8
SCALED = ", cut at 2 and multiplied by the truncation"
TASK = "unconditional-image-generation"
"""Closest task that hubs know: images from neither text nor image."""


def write(folder: Path, name: str, information: Mapping[str, Any], sampler: Sampler) -> None:
    """Write `README.md`, and `samples.png` at the sampler's truncation."""
    shown = evenly_spaced(len(sampler.classes), MAX_ROWS)
    rows = generate_rows(sampler.network, shown, COLUMNS, sampler.truncation, 0, sampler.device)
    grid(rows, [sampler.classes[k] for k in shown]).save(folder / PICTURE)
    write_atomically(folder / "README.md", text(name, information, sampler))


def text(name: str, information: Mapping[str, Any], sampler: Sampler) -> str:
    """Return the card as Markdown."""
    matter = yaml.safe_dump(front_matter(name, information), sort_keys=False, allow_unicode=True)
    truncations = ", ".join(truncation_key(t) for t in information["statistics"]["truncations"])
    images_seen = information["images_seen"]
    size, classes = sampler.resolution, sampler.classes
    first = json.dumps(classes[0], ensure_ascii=False)
    parameters = sum(p.numel() for p in sampler.network.parameters())
    facts = {
        "images": f"{size} x {size} px, RGB",
        "classes": f"{len(classes)}: {', '.join(classes[:MAX_ROWS])}{', ...' if len(classes) > MAX_ROWS else ''}",
        "latent": f"{sampler.z_dim} values of a normal distribution{SCALED if sampler.network.scaled_latents else ''}",
        "parameters": f"{parameters:,}",
        "weights": information["weights"],
        "statistics": f"{information['statistics']['protocol']}; for truncation {truncations}",
        "trained on": information["data"],
        "from": information["origin"] + ("" if images_seen is None else f", after {images_seen:,} real images"),
        "licence": information["license"],
    }
    return "\n".join(
        [
            f"---\n{matter}---\n\n# {plain(name)}\n",
            f"A class-conditional BigGAN generator ([paper](https://arxiv.org/abs/1809.11096)), trained on "
            f"{plain(information['data'])}.\n",
            f"![One class per row, truncation {truncation_key(sampler.truncation)}]({PICTURE})\n",
            "    from biggan import load_generator",
            f"    G = load_generator({json.dumps(name, ensure_ascii=False)}, truncation={sampler.truncation})",
            f"    images = G.sample({first}, count=8, seed=0)  # uint8 [8, {size}, {size}, 3]\n",
            "| | |\n| --- | --- |",
            *(f"| {key} | {plain(value)} |" for key, value in facts.items()),
            *(f"| {form} | `{entry['file']}` |" for form, entry in information["other_forms"].items()),
            *_lineage(information["lineage"]),
            *_evaluations(information["evaluations"]),
            "",
        ]
    )


def front_matter(name: str, information: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the card that hubs read."""
    matter: dict[str, Any] = {
        "license": information["license"],
        "library_name": "biggan",
        "pipeline_tag": TASK,
        "tags": ["biggan", "gan", "class-conditional", "image-generation"],
    }
    metrics = [
        {"type": metric, "value": value, "name": f"{metric} ({_measured_with(evaluation['protocol'])})"}
        for evaluation in information["evaluations"]
        for metric, value in evaluation["metrics"].items()
    ]
    if metrics:
        data = {"name": information["data"], "type": information["data"]}
        matter["model-index"] = [
            {"name": name, "results": [{"task": {"type": TASK}, "dataset": data, "metrics": metrics}]}
        ]
    return matter


def _measured_with(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in words. Values of one metric are comparable only with equal protocols."""
    truncation, images = truncation_key(protocol["truncation"]), protocol["num_images"]
    return f"{protocol['features']} features, truncation {truncation}, {images:,} images"


def _lineage(lineage: Mapping[str, Any] | None) -> Iterator[str]:
    if lineage is not None:
        yield f"\nIts run was started from {plain(lineage['parent'])}@{lineage['step']}, with these changes:\n"
        for key, (before, now) in lineage["changes"].items():
            yield f"- `{key}`: {plain(before)} before, {plain(now)} now"


def _evaluations(evaluations: list[Mapping[str, Any]]) -> Iterator[str]:
    for evaluation in evaluations:
        yield "\n| metric | value |\n| --- | --- |"
        yield from (f"| {plain(metric)} | {value:.4g} |" for metric, value in evaluation["metrics"].items())
        protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in evaluation["protocol"].items())
        yield f"\nMeasured with {plain(protocol)}."


def plain(value: object) -> str:
    """Return text that Markdown and HTML show as it is: names of classes and folders can contain either."""
    text = html.escape(printable_line(value), quote=False)
    return re.sub(r"(https?)(:)(?=//)|([\\`*_\[\]|~$!])", lambda m: f"{m[1]}&#58;" if m[1] else f"\\{m[3]}", text)
