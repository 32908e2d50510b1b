"""Imports point one way (DESIGN: cli -> loop -> step -> engine, models, objectives -> torch)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "biggan"

ALLOWED = {
    "errors": set(),
    "files": set(),
    "nearest": set(),
    "pictures": set(),
    "progress": set(),
    "config": {"config", "errors"},
    "preset": {"config", "errors", "nearest"},
    "tracking": {"files"},
    "cost.stragglers": set(),
    "cost.scaling": {"cost.stragglers"},
    "cost.communication": {"cost.scaling", "distributed.zero"},
    "cost.memory": {"cost.communication"},
    "cost.trace": {
        "build",
        "config",
        "cost.scaling",
        "distributed.engine",
        "distributed.finite",
        "distributed.process",
        "models.batchnorm",
        "training.ema",
        "training.step",
    },
    "cost.estimate": {"config", "cost.communication", "cost.memory", "cost.scaling", "cost.trace", "errors"},
    "cost.table": {"config", "cost.estimate"},
    "distributed.collectives": set(),
    "distributed.finite": set(),
    "distributed.bounded": set(),
    "distributed.threads": set(),
    "distributed.process": {"distributed.bounded", "distributed.threads", "errors"},
    "distributed.lost": {"distributed.bounded", "distributed.process", "errors"},
    "distributed.engine": {"distributed.finite", "distributed.process"},
    "distributed.zero": {
        "distributed.collectives",
        "distributed.engine",
        "distributed.finite",
        "distributed.process",
        "errors",
    },
    "models": {"models", "distributed.collectives"},
    "importing.reference_names": set(),
    "importing.pickles": {"errors"},
    "importing.found": {"config", "errors", "models.architecture"},
    "importing.shapes": {"errors", "importing.found", "models"},
    "importing.reference_settings": {"config", "errors", "models.architecture"},
    "importing.reference": {"build", "errors", "importing", "models.architecture", "preset"},
    "importing.deepmind": {"errors", "generation.source", "importing", "models"},
    "importing.plain": {"build", "errors", "importing", "preset"},
    "importing.detect": {"errors", "importing", "nearest"},
    "importing.check": {"data.dataset", "errors", "generation.architecture_json", "importing.found", "models"},
    "importing.class_names": {"data.dataset", "errors"},
    "importing.summary": {"generation.architecture_json", "importing.found", "models.architecture"},
    "objectives": {"models.layers"},
    "training.ema": set(),
    "training.latents": set(),
    "training.ring": {"files"},
    "training.best": set(),
    "training.checkpoint": {"data.dataset", "errors", "files", "training.best", "training.ring"},
    "training.step": {"distributed.engine", "models.networks", "objectives", "training.ema", "training.latents"},
    "finetuning.classes": {"errors"},
    "finetuning.places": {"models.architecture", "models.networks"},
    "finetuning.transfer": {"finetuning.classes", "finetuning.places", "models"},
    "finetuning.source": {"build", "errors", "generation", "models", "preset", "training"},
    "finetuning.beginning": {"build", "config", "errors", "files", "finetuning", "generation", "models", "training"},
    "generation.latents": {"models.networks", "training.latents"},
    "generation.sample": {"generation.latents", "models.networks"},
    "generation.standing_stats": {
        "generation.latents",
        "models.batchnorm",
        "models.networks",
        "training.latents",
    },
    "generation.mixing": {"errors", "models.networks"},
    "generation.route": set(),
    "generation.interpolation": {
        "errors",
        "generation.latents",
        "generation.mixing",
        "generation.route",
        "generation.sample",
        "models.networks",
    },
    "generation.series": {
        "distributed.process",
        "errors",
        "generation.latents",
        "generation.sample",
        "models.networks",
        "progress",
    },
    "generation.outputs": {"errors", "files", "generation.series"},
    "generation.asked": {"errors"},
    "generation.architecture_json": {"models.architecture", "models.networks"},
    "generation.source": {"generation.standing_stats", "models.networks"},
    "generation.exported": {
        "errors",
        "files",
        "generation.architecture_json",
        "generation.source",
        "models.architecture",
        "models.folding",
        "models.networks",
    },
    "generation.sampler": {
        "distributed.process",
        "errors",
        "generation.asked",
        "generation.exported",
        "generation.latents",
        "generation.sample",
        "generation.source",
        "models.networks",
    },
    "generation.agreement": {"errors", "models.networks", "training.latents"},
    "generation.torch_export": {"generation.agreement", "generation.sampler", "generation.source"},
    "generation.onnx_model": {
        "generation.agreement",
        "generation.sampler",
        "generation.source",
        "generation.torch_export",
    },
    "generation.mlflow_model": {"generation.latents", "generation.sampler"},
    "generation.mlflow_export": {"errors", "generation", "tracking"},
    "generation.page": {"distributed.process", "generation", "models.networks", "pictures"},
    "collapse.report_curves": set(),
    "collapse.report_scales": set(),
    "collapse.report_record": {"collapse.report_curves", "errors"},
    "collapse.report_charts": {"collapse.report_curves", "collapse.report_record", "collapse.report_scales"},
    "collapse.report_samples": {"collapse.report_record"},
    "collapse.report": {
        "collapse.report_charts",
        "collapse.report_curves",
        "collapse.report_record",
        "collapse.report_samples",
        "collapse.report_scales",
        "files",
    },
    "collapse.subspace": set(),
    "collapse.spectrum": {"collapse.subspace", "distributed.process", "models.layers", "training.latents"},
    "data.dataset": {"errors"},
    "data.image": set(),
    "data.journal": {"data.dataset", "errors", "files"},
    "data.sources.source": set(),
    "data.sources.known": {"data.sources.source", "errors"},
    "data.sources.tree": {"data.image", "data.sources.source", "errors"},
    "data.sources.labels": {"data.sources.source", "data.sources.tree", "errors"},
    "data.sources.lsun": {"data.image", "data.sources.source", "errors"},
    "data.sources.parquet": {"data.image", "data.sources.source", "errors"},
    "data.sources.selection": {"data.sources.source", "errors"},
    "data.stream": {"data.dataset", "errors"},
    "data.loader": {"data.stream", "distributed.threads", "errors"},
    "collapse.interventions": {"config", "errors"},
    "evaluation.statistics": {"distributed.collectives", "distributed.process", "errors", "files"},
    "evaluation.frechet": {"evaluation.statistics"},
    "evaluation.inception_score": {"distributed.collectives", "distributed.process"},
    "evaluation.kernel": set(),
    "evaluation.manifold": set(),
    "evaluation.features": set(),
    "evaluation.stored": {"errors", "files"},
    "evaluation.inception": {"errors", "evaluation.features", "files"},
    "evaluation.torchvision_features": {"errors", "evaluation.features", "evaluation.inception", "files"},
    "evaluation.classifier": {
        "data",
        "distributed.process",
        "evaluation.features",
        "evaluation.stored",
        "pictures",
        "progress",
        "training.latents",
    },
    "evaluation.result": set(),
    "evaluation.sweep": {"evaluation.result"},
    "evaluation.summary": {"distributed.process", "errors", "evaluation.statistics", "evaluation.stored"},
    "evaluation.partial": {"distributed.process", "evaluation.stored", "progress"},
    # Nothing of training but its keyed random numbers: training evaluates, not the other way round.
    "evaluation.evaluate": {"data", "distributed.process", "errors", "evaluation", "generation", "models", "progress"},
    "doctor.check": set(),
    "doctor.board": {"errors"},
    "doctor.network": {"distributed.collectives", "distributed.process", "doctor.board"},
    "doctor.host": {"config", "errors", "preset", "training.run_folder"},
    "doctor.agreement": {"doctor.check", "doctor.host"},
    "doctor.machine": {"config", "doctor.agreement", "doctor.check", "doctor.host"},
    "doctor.contact": {"doctor.agreement", "doctor.check", "doctor.host", "doctor.network"},
    "doctor.dataset": {"config", "data", "doctor.board", "doctor.check", "errors", "files"},
    "doctor.disk": {"build", "config", "doctor.check", "training.ring", "training.run_folder"},
    "doctor.findings": {"config", "doctor"},
    "doctor.report": {"doctor.check", "doctor.network", "errors", "files"},
    "doctor.examination": {"build", "data.dataset", "distributed.process", "doctor", "errors"},
}
ONLY_IMPORTERS = {
    "mlflow": {"tracking", "generation.mlflow_export", "generation.mlflow_model"},
    "onnxruntime": {"generation.onnx_model"},
    "streamlit": {"generation.page"},
    "webdataset": {"data.stream"},
    "pyarrow": {"data.sources.parquet"},
    "lmdb": {"data.sources.lsun"},
    "deepspeed": {"distributed.zero"},
    "typer": {"cli"},
    "pytorch_fid": {"evaluation.inception"},
}


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        imported = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
        yield name, imported


@pytest.mark.parametrize(("name", "imported"), list(modules()), ids=lambda x: x if isinstance(x, str) else "")
def test_direction(name, imported):
    rule = next((ALLOWED[key] for key in (name, name.split(".")[0]) if key in ALLOWED), None)
    ours = {m.removeprefix("biggan.") for m in imported if m.startswith("biggan.")}
    if rule is not None:
        assert not {m for m in ours if m not in rule and m.split(".")[0] not in rule}
    assert name.split(".")[0] in ("__main__", "cli") or not {m for m in ours if m.split(".")[0] == "cli"}
    for library, importers in ONLY_IMPORTERS.items():
        if any(m.split(".")[0] == library for m in imported):
            assert name in importers or name.split(".")[0] in importers
