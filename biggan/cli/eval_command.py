"""The command `biggan eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str, typer.Argument(metavar="RUN_OR_EXPORT", help="RUN (newest), RUN@STEP, RUN@best, RUN@good, or an export.")
]
Data = Annotated[str, typer.Option(help="The packed data set of the training: the real images.")]
NumImages = Annotated[int, typer.Option(help="Number of images to generate and measure.")]
Truncations = Annotated[
    list[str] | None, typer.Option(help="Truncation threshold of z, above 0, or none; repeat it for a sweep.")
]
FeatureName = Annotated[str, typer.Option(help="inception, classifier or torchvision:NAME.")]
Weights = Annotated[Path | None, typer.Option(help="State dict for torchvision:NAME.")]
InceptionWeights = Annotated[
    Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth; default: torch's cache.")
]
PerClass = Annotated[bool, typer.Option(help="Also measure FID per class.")]
Standing = Annotated[
    bool, typer.Option("--standing/--running", help="BatchNorm statistics: recomputed, or the running ones.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same images.")]
RealStatistics = Annotated[
    Path | None, typer.Option(help="pytorch-fid's .npz, used instead of the real images; gives FID and IS only.")
]
WriteStatistics = Annotated[Path | None, typer.Option(help="Write the real images' statistics to this .npz file.")]
RealHalves = Annotated[bool, typer.Option(help="Also compare real images with real images, as a lower bound.")]
Neighbours = Annotated[Path | None, typer.Option(help="Write a figure of samples and their nearest real images.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file to write; default RUN/evaluation/*.json.")]


def evaluate(
    source: Source,
    data: Data,
    num_images: NumImages = 50_000,
    truncation: Truncations = None,
    features: FeatureName = "inception",
    weights: Weights = None,
    inception_weights: InceptionWeights = None,
    per_class: PerClass = False,
    standing: Standing = True,
    seed: Seed = 0,
    real_statistics: RealStatistics = None,
    write_statistics: WriteStatistics = None,
    real_halves: RealHalves = False,
    neighbours: Neighbours = None,
    out: Out = None,
) -> None:
    """Measure the EMA generator: FID, IS, KID, precision, recall (overall and within classes), density, coverage,
    accuracy.

    Run it alone or with torchrun --nproc_per_node N -m biggan eval ... Run it again after an interruption.
    """
    from biggan.evaluation import evaluation_run
    from biggan.evaluation.evaluate import Settings
    from biggan.evaluation.extractors import Features
    from biggan.generation.arguments import parse_truncation
    from biggan.progress import Meter

    request = evaluation_run.EvaluationRequest(
        source=source, data=data, out=out, neighbours=neighbours,
        truncations=tuple(parse_truncation(text, "--truncation") for text in truncation or ["none"]),
        features=Features(features, weights, inception_weights),
        settings=Settings(num_images=num_images, seed=seed, standing=standing, per_class=per_class),
        real_statistics=real_statistics, write_statistics=write_statistics, real_halves=real_halves,
    )  # fmt: skip
    with Meter() as meter:
        evaluation_run.evaluate(request, meter)
