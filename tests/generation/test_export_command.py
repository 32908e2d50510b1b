"""The command `biggan export`: messages, exit codes, and no partial output."""

import json
import sys


def test_export_writes_the_named_checkpoint_and_its_options(run_command, run, tmp_path):
    out = tmp_path / "deep" / "letters"
    code, output = run_command(
        "export", f"{run}@best", out, "--truncations", "1,none", "--license", "mit", "--format", "torch-export"
    )
    assert (code, output.splitlines()[0]) == (0, str(out)), output
    assert "\nstanding statistics: 32/32 " in output  # on the error stream
    assert "" not in output.splitlines()
    information = json.loads((out / "generator.json").read_text())
    assert (information["step"], information["license"]) == (5, "mit")
    assert information["statistics"]["truncations"] == [1.0, None]
    assert information["other_forms"]["torch-export"]["truncation"] == "1.0"
    assert not (out / "discriminator.safetensors").exists()


def test_bad_input_is_one_line_and_nothing_is_written(run_command, run, exported, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refuses(parts, *arguments):
        code, output = run_command("export", *arguments)
        assert (code, len(output.strip().splitlines())) == (2, 1), output
        assert [part for part in parts if part not in output] == [], output
        assert not out.exists()

    refuses([f"{run}@4", f"{run}@3"], f"{run}@4", out)
    refuses([f"{tmp_path}: ", "step_"], tmp_path, out)
    refuses([f"{exported}: ", "generator.json"], exported, out)
    refuses([f"OUT: {exported} "], run, exported)
    refuses(["--truncations: 'big'", "none"], run, out, "--truncations", "1,big")
    refuses(["--truncations: 0.0"], run, out, "--truncations", "0")
    refuses(["--truncations: nan"], run, out, "--truncations", "nan")
    refuses(["--register: ", "--format mlflow"], run, out, "--register", "x")
    (tmp_path / "file").write_text("")
    refuses(["OUT: ", "Not a directory"], run, tmp_path / "file" / "out", "--truncations", "none")
    monkeypatch.setattr(
        sys.modules["biggan.cli.export_commands"], "find_spec", lambda name: name != "onnxscript" or None
    )
    refuses(["--format onnx: ", " onnxscript", "pip install 'biggan[onnx]'"], run, out, "--format", "onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file"]
