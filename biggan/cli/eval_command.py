"""`biggan eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_EXPORT", help="A run (newest), RUN@STEP, @best, @good, or an export.")
    ],
    data: Annotated[str, typer.Option(help="The packed data set it was trained on: the real images.")],
    num_images: Annotated[int, typer.Option(help="Images to make and measure.")] = 50_000,
    truncation: Annotated[
        list[str] | None, typer.Option(help="Of z: a number above 0, or none. Several make a sweep.")
    ] = None,
    features: Annotated[str, typer.Option(help="inception, classifier or torchvision:NAME.")] = "inception",
    weights: Annotated[Path | None, typer.Option(help="Of torchvision:NAME: its state dict.")] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth; default: torch's cache.")
    ] = None,
    per_class: Annotated[bool, typer.Option(help="FID of each class too.")] = False,
    standing: Annotated[
        bool, typer.Option("--standing/--running", help="BatchNorm statistics: taken anew, or those of training.")
    ] = True,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    real_statistics: Annotated[
        Path | None, typer.Option(help="pytorch-fid's .npz, not the real images: FID and IS alone.")
    ] = None,
    write_statistics: Annotated[Path | None, typer.Option(help="Write the real images' .npz.")] = None,
    real_halves: Annotated[bool, typer.Option(help="Measure real against real too: the best to hope for.")] = False,
    neighbours: Annotated[
        Path | None, typer.Option(help="A picture of samples beside their nearest real images.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON to write; default RUN/evaluation/*.json.")] = None,
) -> None:
    """Measure the averaged (EMA) generator: FID, IS, KID, precision, recall (of all, inside classes), density,
    coverage, accuracy.

    Alone or on many processes: torchrun --nproc_per_node N -m biggan eval ... Run it again after an interruption.
    """
    from biggan.evaluation.evaluate import Settings
    from biggan.evaluation.evaluation_run import EvaluationRequest
    from biggan.evaluation.evaluation_run import evaluate as evaluate_source
    from biggan.evaluation.extractors import Features
    from biggan.generation.arguments import parse_truncation
    from biggan.progress import Meter

    request = EvaluationRequest(
        source=source,
        data=data,
        truncations=tuple(parse_truncation(text, "--truncation") for text in truncation or ["none"]),
        features=Features(features, weights, inception_weights),
        settings=Settings(num_images=num_images, seed=seed, standing=standing, per_class=per_class),
        real_statistics=real_statistics,
        write_statistics=write_statistics,
        real_halves=real_halves,
        out=out,
        neighbours=neighbours,
    )
    with Meter() as meter:
        evaluate_source(request, meter)
