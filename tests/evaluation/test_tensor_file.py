import torch

from biggan.evaluation.tensor_file import read_tensors, write_tensors


def test_a_missing_or_corrupt_file_reads_as_none(tmp_path):
    file = tmp_path / "a" / "b.safetensors"
    assert read_tensors(file) is None
    write_tensors(file, {"x": torch.arange(3)}, {"metadata": [1, "two"]})
    tensors, about = read_tensors(file)
    assert tensors["x"].tolist() == [0, 1, 2]
    assert about == {"metadata": [1, "two"]}
    complete = file.read_bytes()
    for corrupt in (complete[:-4], complete[:5], b"", b"no tensors at all" * 10):
        file.write_bytes(corrupt)
        assert read_tensors(file) is None
